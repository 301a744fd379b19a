//! The files an operator writes: `backstop.yaml`, `agents/`, `prompts/`, `schemas/`; read once, refused with every mistake at once.
