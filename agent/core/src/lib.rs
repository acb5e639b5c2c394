//! What porin decides: packets, routes, configuration, the outbox's rules.
//!
//! Nothing here does I/O, reads a clock or waits: the moment is an argument and what is to be done is a result.
//! `no_std` makes the compiler enforce that. `porind` is the thin shell that does it.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod calibration;
pub mod clock;
pub mod config;
pub mod dead;
pub mod fault;
pub mod framing;
pub mod health;
pub mod ids;
pub mod limits;
pub mod lines;
pub mod live;
pub mod mapping;
pub mod modbus;
pub mod outbox;
pub mod output;
pub mod packet;
pub mod payload;
pub mod poll;
pub mod pulses;
pub mod rate;
pub mod reason;
pub mod record;
pub mod retry;
pub mod setup;
pub mod simulator;
pub mod status;
pub mod stream;
pub mod time;
pub mod topic;
pub mod trust;
pub mod update;
pub mod words;
