//! `[web]` of `attendant.toml`: where the page is served, and to whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Most event streams at a time that make sense on a small board.
const CLIENTS_MAX: u32 = 4096;

/// Most texts and choices a second, and in a row, that a limit can still be called one.
const RATE_MAX: u32 = 1000;

/// `[web]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSpec {
    /// Address and port; by default one that only this machine can reach.
    #[serde(default = "loopback")]
    pub listen: SocketAddr,
    /// File with the token that requests have to carry. Needed for any address that others can reach.
    pub token_file: Option<PathBuf>,
    /// Names that requests may be made for beside `localhost` and the address itself: a proxy's, the device's in its network.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Whether the camera's newest picture may be seen by whoever may see the rest.
    #[serde(default)]
    pub preview: bool,
    /// Event streams at a time.
    #[serde(default = "clients")]
    pub clients_max: u32,
    /// Texts and choices a second, of all clients together: a kiosk has one visitor.
    #[serde(default = "rate_hz")]
    pub rate_hz: u32,
    /// Texts and choices that may come in a row before that rate holds.
    #[serde(default = "burst_max")]
    pub burst_max: u32,
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn clients() -> u32 {
    224
}

fn rate_hz() -> u32 {
    5
}

fn burst_max() -> u32 {
    10
}

impl Default for WebSpec {
    fn default() -> Self {
        WebSpec {
            listen: loopback(),
            token_file: None,
            allowed_hosts: Vec::new(),
            preview: false,
            clients_max: clients(),
            rate_hz: rate_hz(),
            burst_max: burst_max(),
        }
    }
}

impl WebSpec {
    /// The key that is wrong, and why.
    ///
    /// # Errors
    /// An address that others can reach without a token, a name that is none, a number out of range.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.listen.ip().is_loopback() && self.token_file.is_none() {
            let message = format!(
                "listen = \"{}\": others can reach this address, so token_file is needed; or listen on 127.0.0.1 behind a proxy",
                self.listen
            );
            return Err(("listen", message));
        }
        if self.token_file.as_ref().is_some_and(|f| f.as_os_str().is_empty()) {
            return Err(("token_file", "token_file = \"\", expected a file".into()));
        }
        let is_name = |h: &String| {
            let plain = h.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(h);
            !plain.is_empty()
                && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
                && (plain != h || !h.contains(':'))
        };
        if let Some(host) = self.allowed_hosts.iter().find(|h| !is_name(h)) {
            let message =
                format!("allowed_hosts: {host:?}, expected a name or an address without scheme, port and path");
            return Err(("allowed_hosts", message));
        }
        if !(1..=CLIENTS_MAX).contains(&self.clients_max) {
            return Err(("clients_max", format!("clients_max = {}, expected 1 to {CLIENTS_MAX}", self.clients_max)));
        }
        for (key, value) in [("rate_hz", self.rate_hz), ("burst_max", self.burst_max)] {
            if !(1..=RATE_MAX).contains(&value) {
                return Err((key, format!("{key} = {value}, expected 1 to {RATE_MAX}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Runtime;
    use super::*;

    #[test]
    fn a_server_that_others_can_reach_needs_a_token() {
        let cases = [
            ("[web]", ""),
            ("[web]\nlisten = \"[::1]:80\"\nclients_max = 1", ""),
            (
                "[web]\nlisten = \"0.0.0.0:8080\"\ntoken_file = \"token\"\nallowed_hosts = [\"kiosk.local\", \"[fe80::1]\"]",
                "",
            ),
            (
                "\n[web]\nlisten = \"0.0.0.0:8080\"",
                "x.toml:3: web.listen = \"0.0.0.0:8080\": others can reach this address",
            ),
            ("[web]\nlisten = \"127.0.0.1\"", "x.toml:2: web.listen: invalid socket address syntax"),
            ("[web]\ntoken_file = \"\"", "x.toml:2: web.token_file = \"\", expected a file"),
            ("[web]\nallowed_hosts = [\"http://a\"]", "x.toml:2: web.allowed_hosts: \"http://a\", expected a name"),
            ("[web]\nallowed_hosts = [\"a:80\"]", "x.toml:2: web.allowed_hosts: \"a:80\""),
            ("[web]\nclients_max = 0", "x.toml:2: web.clients_max = 0, expected 1 to 4096"),
            ("[web]\nrate_hz = 1000\nburst_max = 1", ""),
            ("[web]\nrate_hz = 0", "x.toml:2: web.rate_hz = 0, expected 1 to 1000"),
            ("[web]\nrate_hz = 5\nburst_max = 1001", "x.toml:3: web.burst_max = 1001, expected 1 to 1000"),
            (
                "[web]\nport = 1",
                "x.toml:2: unknown key `port` in `web`; known keys: listen, token_file, allowed_hosts, preview, clients_max, rate_hz, \
                 burst_max",
            ),
        ];
        for (text, expect) in cases {
            let got = Runtime::parse(Path::new("x.toml"), text).map_or_else(|e| e.to_string(), |_| String::new());
            let is_right = if expect.is_empty() { got.is_empty() } else { got.starts_with(expect) };
            assert!(is_right, "{text}\n  got      {got}\n  expected {expect}");
        }
        assert_eq!(Runtime::parse(Path::new("x"), "[web]").unwrap().web, Some(WebSpec::default()));
    }
}
