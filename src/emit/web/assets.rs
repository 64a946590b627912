//! The page: files of `assets/`, compiled in. What is not in the list does not exist, whatever a path looks like.

/// One file.
#[derive(Debug)]
pub(super) struct Asset {
    /// Its name below `/assets/`.
    pub name: &'static str,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// As it is sent.
    pub bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal $content_type:expr),* $(,)?) => {
        /// Every file of the page.
        pub(super) const ASSETS: &[Asset] =
            &[$(Asset { name: $name, content_type: $content_type, bytes: include_bytes!(concat!("assets/", $name)) }),*];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

assets! {
    "index.html" HTML,
    "kiosk.css" CSS,
    "kiosk.js" JS,
    "live.html" HTML,
    "live.css" CSS,
    "live.js" JS,
    "common.js" JS,
    "strings.js" JS,
    "keyboard.js" JS,
    "icon.svg" SVG,
}

impl Asset {
    /// The file of that name.
    pub fn named(name: &str) -> Option<&'static Asset> {
        ASSETS.iter().find(|a| a.name == name)
    }

    /// A tag that changes with the content.
    pub fn etag(&self) -> String {
        format!("\"{:08x}-{:x}\"", crc32fast::hash(self.bytes), self.bytes.len())
    }
}

/// Whether `If-None-Match` names the tag.
pub(super) fn is_match(if_none_match: &str, etag: &str) -> bool {
    if_none_match.split(',').map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_recognised_in_a_list_and_weak() {
        let etag = Asset::named("kiosk.js").unwrap().etag();
        for (given, expect) in [
            (etag.clone(), true),
            (format!("W/{etag}"), true),
            (format!("\"x\", {etag}"), true),
            ("*".into(), true),
            ("\"x\"".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_match(&given, &etag), expect, "{given}");
        }
    }

    #[test]
    fn names_are_looked_up_and_never_paths() {
        for name in ["", "nothing.js", "../mod.rs", "..%2fmod.rs", "/etc/passwd", "assets/kiosk.js", "KIOSK.JS"] {
            assert!(Asset::named(name).is_none(), "{name}");
        }
    }
}
