//! Both engines keep the engine contract; the embedded one also survives what only a disk can do.
