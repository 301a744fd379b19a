//! When a human is called: three dead letters within a sliding hour, once per incident.
