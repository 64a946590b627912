//! What the service manager is told: that the program is ready, that it is alive, that it is stopping.
//!
//! [`Heart`] decides when; the inference loop calls it once a turn, after the tick that makes decisions fresh. A loop that hangs in
//! an output, an encoder or a sink does not get there, and a device's thread that hangs in its driver makes the caller say
//! so: in both cases the manager hears nothing and starts the service again.

use std::time::Duration;

use log::warn;
use sd_notify::NotifyState;

use crate::time::Micros;

/// The service manager, or nobody.
pub trait Manager: Send {
    /// How long it waits for a sign of life; None if it does not.
    fn patience(&self) -> Option<Duration>;
    /// Hands over one message.
    fn tell(&mut self, message: Message<'_>);
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The pipeline runs.
    Ready,
    /// Ticks flow, and no device's thread hangs.
    Alive,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// The run is over.
    Stopping,
}

/// Nobody listens.
#[derive(Debug, Default)]
pub struct Nobody;

impl Manager for Nobody {
    fn patience(&self) -> Option<Duration> {
        None
    }

    fn tell(&mut self, _message: Message<'_>) {}
}

/// systemd, if it started this process; else nobody.
#[derive(Debug, Default)]
pub struct Systemd {
    has_failed: bool,
}

impl Manager for Systemd {
    fn patience(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    fn tell(&mut self, message: Message<'_>) {
        let said = match message {
            Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
            Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
            Message::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
            Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        };
        if let Err(e) = said
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!("systemd cannot be told that this program is alive ({e}); it will restart it");
        }
    }
}

/// Signs of life, no more often than they are needed.
pub struct Heart<'a> {
    manager: &'a mut dyn Manager,
    every: Option<Micros>,
    next: Option<Micros>,
}

impl<'a> Heart<'a> {
    /// For `manager`, who is told three times within its patience.
    pub fn new(manager: &'a mut dyn Manager) -> Self {
        let every = manager.patience().map(|p| Micros(u64::try_from(p.as_micros()).unwrap_or(u64::MAX) / 3));
        Heart { manager, every, next: None }
    }

    /// A turn of the loop has ended at `now`; `is_healthy` says that no device's thread hangs.
    pub fn beat(&mut self, now: Micros, is_healthy: bool) {
        if self.next.is_none() {
            self.manager.tell(Message::Ready);
            self.next = Some(now);
        }
        if let (Some(every), Some(next)) = (self.every, self.next)
            && is_healthy
            && now >= next
        {
            self.manager.tell(Message::Alive);
            self.next = Some(now + every);
        }
    }

    /// One line for people.
    pub fn status(&mut self, text: &str) {
        self.manager.tell(Message::Status(text));
    }

    /// The run is over.
    pub fn stop(&mut self) {
        self.manager.tell(Message::Stopping);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        patience_ms: Option<u64>,
        heard: Vec<String>,
    }

    impl Manager for Fake {
        fn patience(&self) -> Option<Duration> {
            self.patience_ms.map(Duration::from_millis)
        }

        fn tell(&mut self, message: Message<'_>) {
            self.heard.push(format!("{message:?}"));
        }
    }

    #[test]
    fn life_is_shown_while_ticks_flow_and_nothing_hangs() {
        let mut fake = Fake { patience_ms: Some(300), heard: vec![] };
        let mut heart = Heart::new(&mut fake);
        for t_ms in (0..=200).step_by(50) {
            heart.beat(Micros::from_ms(t_ms), true);
        }
        heart.beat(Micros::from_ms(900), false);
        heart.beat(Micros::from_ms(950), true);
        heart.stop();
        // at 0, 100 and 200; not while something hangs; again afterwards
        assert_eq!(fake.heard, ["Ready", "Alive", "Alive", "Alive", "Alive", "Stopping"]);
    }

    #[test]
    fn a_manager_without_a_watchdog_hears_ready_once() {
        let mut fake = Fake { patience_ms: None, heard: vec![] };
        let mut heart = Heart::new(&mut fake);
        heart.beat(Micros::ZERO, true);
        heart.beat(Micros::from_ms(100), true);
        heart.status("card ok");
        assert_eq!(fake.heard, ["Ready", "Status(\"card ok\")"]);
    }
}
