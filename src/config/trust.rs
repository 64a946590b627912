//! `[trust]` and `[update]` of `attendant.toml`: whose bundles a device takes, and where new ones come from.

use std::path::PathBuf;

use serde::Deserialize;

/// Length of a public key of minisign in Base64.
const KEY_CHARS: usize = 56;

/// `[trust]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSpec {
    /// Public keys of minisign, the second lines of their files.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether a bundle that is not signed is refused; without it, whenever there are keys.
    pub require_signed: Option<bool>,
}

impl TrustSpec {
    /// Whether every bundle has to be signed.
    #[must_use]
    pub fn requires_signature(&self) -> bool {
        self.require_signed.unwrap_or(!self.keys.is_empty())
    }

    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let is_key = |key: &String| key.len() == KEY_CHARS && key.starts_with("RW");
        if let Some(key) = self.keys.iter().find(|key| !is_key(key)) {
            let expected = "expected the second line of a minisign.pub, 56 characters that begin with RW";
            return Err(("keys", format!("keys: {key:?}, {expected}")));
        }
        if self.require_signed == Some(true) && self.keys.is_empty() {
            return Err(("require_signed", "require_signed = true, and no keys: nothing could run; add keys".into()));
        }
        Ok(())
    }
}

/// `[update]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    /// Where installed bundles and the state of updates are kept. Relative to the file that says it.
    pub state_dir: PathBuf,
    /// Where new bundles are put; without it `inbox` in `state_dir`. Relative to the file that says it.
    pub inbox: Option<PathBuf>,
    /// How often the inbox is looked at; 0: only when a reload is asked for.
    #[serde(default = "default_look_s")]
    pub look_s: u32,
    /// Whether a new bundle has to give its own golden events before it runs.
    #[serde(default = "default_self_test")]
    pub self_test: bool,
    /// How long the self-test may take.
    #[serde(default = "default_self_test_s")]
    pub self_test_s: u32,
    /// How long a new bundle is watched before the one before it is given up.
    #[serde(default = "default_probation_s")]
    pub probation_s: u32,
}

fn default_look_s() -> u32 {
    10
}

fn default_self_test() -> bool {
    true
}

fn default_self_test_s() -> u32 {
    120
}

fn default_probation_s() -> u32 {
    60
}

impl UpdateSpec {
    /// Everything by default but the directory.
    #[must_use]
    pub fn in_dir(state_dir: PathBuf) -> Self {
        UpdateSpec {
            state_dir,
            inbox: None,
            look_s: default_look_s(),
            self_test: default_self_test(),
            self_test_s: default_self_test_s(),
            probation_s: default_probation_s(),
        }
    }

    /// Where new bundles are put.
    #[must_use]
    pub fn inbox(&self) -> PathBuf {
        self.inbox.clone().unwrap_or_else(|| self.state_dir.join("inbox"))
    }

    /// The paths in it.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        std::iter::once(&mut self.state_dir).chain(self.inbox.as_mut())
    }

    /// The key that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.state_dir.as_os_str().is_empty() {
            return Err(("state_dir", "state_dir = \"\", expected a directory that can be written".into()));
        }
        let ranges = [
            ("look_s", self.look_s, 0..=86_400),
            ("self_test_s", self.self_test_s, 1..=3600),
            ("probation_s", self.probation_s, 5..=86_400),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                return Err((key, format!("{key} = {value}, expected {} to {}", range.start(), range.end())));
            }
        }
        Ok(())
    }
}
