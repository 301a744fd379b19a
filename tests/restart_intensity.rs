//! An agent that dies too often is left down, and nobody else with it.
