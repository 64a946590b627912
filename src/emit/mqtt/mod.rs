//! MQTT: events out, commands in, Home Assistant told.
//!
//! [`MqttSink`] is the sink: it hands events to a bounded memory ([`link`]) and waits for nobody. The service on the network's thread
//! (`client`, feature `mqtt`) takes them from there into the [`backlog`], publishes them, and removes what the broker has acknowledged;
//! what waits while the broker is away waits on [`disk`]. Topics, Home Assistant's messages, the state and the reading of commands are
//! plain functions, built and tested without the feature. The page is docs/mqtt.md.
//!
//! Not here: threads, carrying out commands (the pipeline), MQTT's wire format (rumqttc, named in `client` only).

pub mod backlog;
#[cfg(feature = "mqtt")]
pub mod client;
pub mod command;
pub mod discovery;
pub mod disk;
pub mod link;
pub mod meters;
#[cfg(feature = "mqtt")]
mod tls;
pub mod topics;
pub mod view;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::signal::Event;

use super::{Sink, SinkError};
use link::Link;

/// What `availability` says while the device is connected.
pub const ONLINE: &str = "online";

/// What `availability` says when it is not; the broker says it in the device's stead.
pub const OFFLINE: &str = "offline";

/// How long the end of a run waits for the broker.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Hands events to the service.
pub struct MqttSink {
    link: Arc<Link>,
}

impl MqttSink {
    /// The sink's end of `link`.
    #[must_use]
    pub fn new(link: Arc<Link>) -> Self {
        MqttSink { link }
    }
}

impl Sink for MqttSink {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        let mut json = Vec::with_capacity(1024);
        event.write_json(&mut json).map_err(|e| SinkError::from_io("mqtt", io::Error::from(e)))?;
        self.link.push(event, json);
        Ok(())
    }

    /// Waits for the service to deliver or keep what is left; only the end of a run asks for it.
    fn flush(&mut self) -> Result<(), SinkError> {
        if !self.link.close(FAREWELL) {
            log::warn!("mqtt: what was left could neither be delivered nor kept within {} ms", FAREWELL.as_millis());
        }
        Ok(())
    }
}
