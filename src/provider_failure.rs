//! What a provider's failing answer means: judged by phase, status, machine code and headers first, text last.
