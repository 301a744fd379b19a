//! The outage on one screen, and a ledger that balances.
