//! Who may ask: the Host header against names that are ours, the Origin of a request that changes something, the bearer token, the
//! rate. Pure functions of a request's parts; the answers are `routes`' work.

use axum::http::{HeaderMap, Uri, header};

use crate::time::Micros;

/// Names under which a server that only this machine can reach may be asked.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// How often texts and choices may come, of all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, at least 1.
    pub hz: u32,
    /// In a row, at least 1.
    pub burst_max: u32,
}

/// Why a request is turned away before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// No Host header, or more than one, or not a name.
    NoHost,
    /// A name that is not ours: a page elsewhere whose name was pointed at this machine.
    WrongHost,
    /// A page of another origin wants to change something.
    CrossOrigin,
}

/// Names that a Host header may give.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// The loopback names and `more`, without ports.
    pub fn new(more: impl IntoIterator<Item = String>) -> Self {
        let own = LOOPBACK.iter().map(|n| (*n).to_owned());
        Names(own.chain(more).map(|n| n.to_ascii_lowercase()).collect())
    }

    /// Checks a request's target and Host header; the authority that the client means.
    pub fn check<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Stranger> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Stranger::NoHost) };
        let host = host.to_str().map_err(|_| Stranger::NoHost)?;
        for authority in std::iter::once(host).chain(uri.authority().map(|a| a.as_str())) {
            let name = name_of(authority).ok_or(Stranger::NoHost)?;
            if !self.0.contains(&name) {
                return Err(Stranger::WrongHost);
            }
        }
        Ok(host)
    }
}

/// `Name:80` and `name.` -> `name`; none if it is no authority.
fn name_of(authority: &str) -> Option<String> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, port) = rest.split_once(']')?;
            (&authority[..inside.len() + 2], port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let name = name.strip_suffix('.').unwrap_or(name);
    (is_port && !name.is_empty() && !name.contains(['@', '/'])).then(|| name.to_ascii_lowercase())
}

/// A request that changes something comes from our own page, or from no page at all.
pub(super) fn check_origin(host: &str, headers: &HeaderMap) -> Result<(), Stranger> {
    let is_ours = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|a| a.eq_ignore_ascii_case(host))
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let from_elsewhere = origins.any(|o| !o.to_str().is_ok_and(is_ours));
    let site = headers.get("sec-fetch-site").and_then(|s| s.to_str().ok());
    if from_elsewhere || matches!(site, Some("cross-site" | "same-site")) {
        return Err(Stranger::CrossOrigin);
    }
    Ok(())
}

/// Whether the request carries `token` as its bearer.
pub(super) fn has_token(token: &str, headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return false };
    let Some((scheme, value)) = value.to_str().ok().and_then(|v| v.split_once(' ')) else { return false };
    scheme.eq_ignore_ascii_case("bearer") && is_same(token.as_bytes(), value.trim().as_bytes())
}

/// Equality in a time that depends on the length of `given` alone, so that a token cannot be guessed byte by byte.
fn is_same(token: &[u8], given: &[u8]) -> bool {
    let mut differs = u8::from(token.len() != given.len());
    for (given, token) in given.iter().zip(token.iter().cycle()) {
        differs |= std::hint::black_box(given ^ token);
    }
    std::hint::black_box(differs) == 0 && !token.is_empty()
}

/// Lets a burst through and then a rate.
#[derive(Debug)]
pub(super) struct Bucket {
    /// What is left, in microseconds of filling.
    left_us: u64,
    at: Micros,
    full_us: u64,
    one_us: u64,
}

impl Bucket {
    /// Full.
    pub fn new(rate: Rate) -> Self {
        let one_us = 1_000_000 / u64::from(rate.hz.max(1));
        let full_us = u64::from(rate.burst_max.max(1)) * one_us;
        Bucket { left_us: full_us, at: Micros::ZERO, full_us, one_us }
    }

    /// Takes one at `now`, if there is one.
    pub fn take(&mut self, now: Micros) -> bool {
        self.left_us = (self.left_us + (now - self.at).0).min(self.full_us);
        self.at = now;
        let is_there = self.left_us >= self.one_us;
        if is_there {
            self.left_us -= self.one_us;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (k.parse::<header::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let names = Names::new(["Kiosk.example".to_owned()]);
        let (no, wrong) = (Err(Stranger::NoHost), Err(Stranger::WrongHost));
        let cases: &[(&str, &str, Result<(), Stranger>)] = &[
            ("/", "localhost", Ok(())),
            ("/", "localhost:8080", Ok(())),
            ("/", "LOCALHOST.:8080", Ok(())),
            ("/", "127.0.0.1:1", Ok(())),
            ("/", "[::1]:8080", Ok(())),
            ("/", "kiosk.example:443", Ok(())),
            ("/", "evil.example", wrong),
            ("/", "localhost.evil.example", wrong),
            ("/", "evil.example:8080", wrong),
            ("/", "127.0.0.2", wrong),
            ("/", "", no),
            ("/", "localhost:80x", no),
            ("/", "[::1", no),
            ("/", "user@localhost", no),
            ("/", "localhost/x", no),
            ("http://localhost/", "localhost", Ok(())),
            ("http://evil.example/", "localhost", wrong),
        ];
        for (uri, host, expect) in cases {
            let (uri, headers) = (uri.parse().unwrap(), headers(&[("host", host)]));
            assert_eq!(names.check(&uri, &headers).map(|_| ()), *expect, "{uri} {host}");
        }
        let uri = "/".parse().unwrap();
        assert_eq!(names.check(&uri, &headers(&[])).map(|_| ()), no);
        let mut two = headers(&[("host", "localhost")]);
        two.append("host", "evil.example".parse().unwrap());
        assert_eq!(names.check(&uri, &two).map(|_| ()), no);
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let cases: &[(&[(&'static str, &str)], bool)] = &[
            (&[], true),
            (&[("origin", "http://localhost:8080")], true),
            (&[("origin", "https://LOCALHOST:8080")], true),
            (&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("origin", "http://localhost")], false),
            (&[("origin", "http://evil.example")], false),
            (&[("origin", "http://localhost:8080.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("sec-fetch-site", "cross-site")], false),
        ];
        for (list, expect) in cases {
            assert_eq!(check_origin("localhost:8080", &headers(list)).is_ok(), *expect, "{list:?}");
        }
    }

    #[test]
    fn a_token_is_right_or_wrong() {
        let token = "0123456789abcdef";
        for (value, expect) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef", true),
            ("Bearer 0123456789abcdeF", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer 0123456789abcdef0123456789abcdef", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
        ] {
            assert_eq!(has_token(token, &headers(&[("authorization", value)])), expect, "{value}");
        }
        assert!(!has_token(token, &headers(&[])));
        assert!(!has_token("", &headers(&[("authorization", "Bearer ")])));
    }

    #[test]
    fn a_burst_passes_and_then_a_rate() {
        let passed = |bucket: &mut Bucket, at_ms| (0..50).filter(|_| bucket.take(Micros::from_ms(at_ms))).count();
        let mut one = Bucket::new(Rate { hz: 1, burst_max: 1 });
        assert_eq!([0, 999, 1000, 9000].map(|at_ms| passed(&mut one, at_ms)), [1, 0, 1, 1]);
        let mut bucket = Bucket::new(Rate { hz: 5, burst_max: 10 });
        assert_eq!(passed(&mut bucket, 1000), 10);
        assert_eq!(passed(&mut bucket, 1199), 0);
        assert_eq!(passed(&mut bucket, 1200), 1);
        assert_eq!(passed(&mut bucket, 2200), 5);
        assert_eq!(passed(&mut bucket, 900_000), 10);
    }
}
