//! High goes first, low is never starved, tenants take turns.
