//! MQTT: events out, commands in, Home Assistant told.

pub mod backlog;
pub mod discovery;
pub mod disk;
pub mod topics;
pub mod view;

/// What `availability` says while the device is connected.
pub const ONLINE: &str = "online";

/// What `availability` says when it is not; the broker says it in the device's stead.
pub const OFFLINE: &str = "offline";
