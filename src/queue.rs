//! Which task goes next: priorities 6 : 3 : 1, tenants in turn, first come first served within.
