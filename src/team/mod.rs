//! The actors: the only place where decisions meet the world.
pub mod desk;
