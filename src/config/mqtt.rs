//! `[mqtt]` of `attendant.toml`: the broker, who this device is there, and what it may keep and obey.
//!
//! Values only: files are opened, and names are looked up, by those who connect.

use std::path::PathBuf;

use serde::Deserialize;

/// Most bytes of a name in a topic.
const NAME_MAX: usize = 64;

/// Fewest bytes of the queue on disk: some hundred events.
const QUEUE_BYTES_MIN: u64 = 64 << 10;

/// Most bytes of the queue on disk.
const QUEUE_BYTES_LIMIT: u64 = 16 << 30;

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSpec {
    /// `mqtt://host:1883`, or `mqtts://host:8883` with TLS.
    pub broker: String,
    /// Second level of every topic: the place, for those who read many devices.
    #[serde(default = "default_site")]
    pub site: String,
    /// Third level of every topic; without it the host's name.
    pub device: Option<String>,
    /// Who the broker is told this is.
    pub username: Option<String>,
    /// File whose first line is the password; never written to the log.
    pub password_file: Option<PathBuf>,
    /// Certificates that the broker's is checked against; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// This device's certificate, for brokers that ask for one.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Whether Home Assistant is told what there is.
    #[serde(default = "yes")]
    pub discovery: bool,
    /// First level of the topics that Home Assistant reads.
    #[serde(default = "default_prefix")]
    pub discovery_prefix: String,
    /// Directory for events while the broker is away; without it they wait in memory.
    pub queue_dir: Option<PathBuf>,
    /// Room for them; the oldest go when it is full.
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes_max: u64,
    /// Whether commands are taken.
    #[serde(default = "yes")]
    pub commands: bool,
}

fn default_site() -> String {
    "default".into()
}

fn default_prefix() -> String {
    "homeassistant".into()
}

fn default_queue_bytes() -> u64 {
    16 << 20
}

fn yes() -> bool {
    true
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Name or address, without the brackets of an IPv6 address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Broker {
    /// `mqtt://host:1883` or `mqtts://host:8883`; the port may be left out.
    ///
    /// # Errors
    /// What is wrong, and what was expected; never the text itself where it may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected mqtt://host:1883, or mqtts://host:8883 with TLS";
        let (tls, rest) = match (text.strip_prefix("mqtt://"), text.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ if text.contains('@') => return Err(EXPECTED.into()),
            _ => return Err(format!("broker = {text:?}, {EXPECTED}")),
        };
        if rest.contains('@') {
            return Err("broker: an address with a name or a password; write username and password_file".into());
        }
        let wrong = || format!("broker = {text:?}, {EXPECTED}");
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_v6 = host.contains(':') && rest.starts_with('[');
        if host.is_empty() || host.len() > 253 || !(is_v6 || host.chars().all(is_host)) {
            return Err(wrong());
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(digits) => digits.parse().ok().filter(|p| *p > 0).ok_or_else(wrong)?,
        };
        Ok(Broker { host: host.to_owned(), port, tls })
    }
}

/// Whether `name` can be a level of a topic and a part of Home Assistant's ids.
///
/// # Errors
/// What is wrong with `key = name`.
pub fn check_name(key: &str, name: &str) -> Result<(), String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // Two names make one id with __ between them: it must not stand in either, nor come about at the seam.
    let is_ambiguous = name.contains("__") || name.starts_with('_') || name.ends_with('_');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_legal) || is_ambiguous {
        let what = "letters, digits, - and single _ between them (a level of topics)";
        return Err(format!("{key} = {name:?}, expected at most {NAME_MAX} {what}"));
    }
    Ok(())
}

impl MqttSpec {
    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let broker = Broker::parse(&self.broker).map_err(|m| ("broker", m))?;
        check_name("site", &self.site).map_err(|m| ("site", m))?;
        if let Some(device) = &self.device {
            check_name("device", device).map_err(|m| ("device", m))?;
        }
        let levels = || self.discovery_prefix.split('/');
        if levels().any(|level| level.is_empty() || level.contains(['+', '#', '\0']) || level.starts_with('$')) {
            let message = format!("discovery_prefix = {:?}, expected a topic without + and #", self.discovery_prefix);
            return Err(("discovery_prefix", message));
        }
        if self.username.as_ref().is_some_and(|u| u.is_empty() || u.len() > 256) {
            return Err(("username", "username: expected 1 to 256 bytes; remove it to connect without a name".into()));
        }
        if self.password_file.is_some() && self.username.is_none() {
            return Err(("password_file", "password_file: a password needs a username; add it".into()));
        }
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => {
                return Err((
                    "client_cert_file",
                    "client_cert_file: a certificate needs client_key_file; add it".into(),
                ));
            }
            (None, Some(_)) => {
                return Err(("client_key_file", "client_key_file: a key needs client_cert_file; add it".into()));
            }
            _ => {}
        }
        let certificates = [("ca_file", &self.ca_file), ("client_cert_file", &self.client_cert_file)];
        for (key, file) in certificates {
            if file.is_some() && !broker.tls {
                return Err((key, format!("{key} is for mqtts://, the broker is mqtt://; change one of them")));
            }
        }
        if !(QUEUE_BYTES_MIN..=QUEUE_BYTES_LIMIT).contains(&self.queue_bytes_max) {
            let message = format!(
                "queue_bytes_max = {}, expected {QUEUE_BYTES_MIN} to {QUEUE_BYTES_LIMIT}",
                self.queue_bytes_max
            );
            return Err(("queue_bytes_max", message));
        }
        Ok(())
    }

    /// Files and directories that it names.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let MqttSpec { password_file, ca_file, client_cert_file, client_key_file, queue_dir, .. } = self;
        [password_file, ca_file, client_cert_file, client_key_file, queue_dir].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_scheme_a_host_and_a_port() {
        let broker = |host: &str, port, tls| Some(Broker { host: host.into(), port, tls });
        let rows = [
            ("mqtt://broker.local", broker("broker.local", 1883, false)),
            ("mqtts://broker.local", broker("broker.local", 8883, true)),
            ("mqtt://10.0.0.7:2883", broker("10.0.0.7", 2883, false)),
            ("mqtts://[fe80::1]:9", broker("fe80::1", 9, true)),
            ("mqtt://[::1]", broker("::1", 1883, false)),
            ("mqtt://", None),
            ("broker", None),
            ("http://broker", None),
            ("mqtt://broker:0", None),
            ("mqtt://broker:65536", None),
            ("mqtt://broker:1883/x", None),
            ("mqtt://[::1", None),
            ("mqtt://[::1]1883", None),
            ("mqtt://[x]", None),
            ("mqtt://a b", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Broker::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn names_make_ids_that_are_never_the_same() {
        for name in ["kiosk-7", "a_b", "7", "-"] {
            assert!(check_name("device", name).is_ok(), "{name}");
        }
        for name in ["", "a/b", "+", "#", "a b", "a__b", "_a", "a_", "\u{e9}", &"x".repeat(65)] {
            assert!(check_name("device", name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        for text in ["mqtt://bob:secret@broker", "bob:secret@broker", "http://bob:secret@broker"] {
            let said = Broker::parse(text).unwrap_err();
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
