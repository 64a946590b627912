//! Whose bundles a device takes: minisign's keys and signatures.
//!
//! Checking is always built in. Making keys and signatures is the feature `sign`; the stock `minisign` program does the same. The secret
//! key stays with whoever releases bundles, no device has it.

use minisign_verify::{Error, PublicKey, Signature};

use super::refused::{Refused, Why};

/// The first line of every signature in a bundle. minisign does not sign that line, so that it may say one thing only.
const COMMENT: &str = "untrusted comment: signature of an attendant bundle";

/// Keys that a device takes bundles of.
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Vec<PublicKey>,
    require_signed: bool,
}

/// Who signed a bundle, as far as the device can tell.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signer {
    /// Nobody.
    Nobody,
    /// Somebody, and the device has no keys to say whether it should mind.
    Unchecked,
    /// The key of this number among those configured, from 0.
    Key(usize),
}

impl Trust {
    /// Nothing is checked: for commands that only look, and devices without keys.
    #[must_use]
    pub fn anything() -> Self {
        Trust { keys: Vec::new(), require_signed: false }
    }

    /// Takes what `keys` have signed, as minisign's public keys in Base64. Without `require_signed` it takes what is not signed, too; what
    /// is signed with another key never.
    ///
    /// # Errors
    /// The number of the key that is none, from 0, and why.
    pub fn new(keys: &[String], require_signed: bool) -> Result<Trust, (usize, String)> {
        let parse = |(i, key): (usize, &String)| {
            let example = "expected the second line of a minisign.pub, 56 characters that begin with RW";
            PublicKey::from_base64(key.trim()).map_err(|e| (i, format!("{key:?} is no public key ({e}); {example}")))
        };
        let keys = keys.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Trust { keys, require_signed })
    }

    /// Whether every bundle has to be signed.
    #[must_use]
    pub fn requires_signature(&self) -> bool {
        self.require_signed
    }

    /// Whether it has any keys.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Who signed `message`, if that is allowed.
    ///
    /// # Errors
    /// [`Why::Unsigned`], [`Why::Key`], [`Why::Signature`].
    pub fn check(&self, message: &[u8], signature: Option<&str>) -> Result<Signer, Refused> {
        let Some(text) = signature else {
            if self.require_signed {
                let next = "sign it with a key whose public half is in [trust] keys";
                return Err(Refused::new(Why::Unsigned, format!("the bundle is not signed; {next}")));
            }
            return Ok(Signer::Nobody);
        };
        let signature = decode(text)?;
        if self.keys.is_empty() {
            if self.require_signed {
                return Err(Refused::new(Why::Key, "[trust] keys is empty: nobody can have signed this; add the key"));
            }
            return Ok(Signer::Unchecked);
        }
        let mut is_known = false;
        for (i, key) in self.keys.iter().enumerate() {
            match key.verify(message, &signature, false) {
                Ok(()) => return Ok(Signer::Key(i)),
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => is_known = true,
            }
        }
        if is_known {
            let message =
                "the signature does not belong to this bundle: one of the two has been changed, or comes from another";
            return Err(Refused::new(Why::Signature, message));
        }
        Err(Refused::new(Why::Key, "it is signed with a key that is not in [trust] keys"))
    }
}

/// Reads a signature of the only form that a bundle may have.
fn decode(text: &str) -> Result<Signature, Refused> {
    let refuse = |message: &str| Refused::new(Why::Signature, format!("the signature {message}"));
    let lines: Vec<&str> = text.split('\n').collect();
    let [comment, signature, _, global, ""] = lines[..] else {
        return Err(refuse("has not the four lines of minisign's"));
    };
    if comment != COMMENT || text.contains('\r') {
        return Err(refuse("has another first line than `bundle sign` writes"));
    }
    if !is_canonical(signature) || !is_canonical(global) {
        return Err(refuse("is no Base64"));
    }
    Signature::decode(text).map_err(|e| refuse(&format!("cannot be read: {e}")))
}

/// Whether the bits that Base64 does not use are zero: a decoder may not care, and two texts would be one signature.
fn is_canonical(text: &str) -> bool {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let content = text.trim_end_matches('=');
    let unused = match text.len() - content.len() {
        0 => 0,
        1 => 0b11,
        2 => 0b1111,
        _ => return false,
    };
    text.len().is_multiple_of(4)
        && content.bytes().all(|c| value(c).is_some())
        && content.bytes().last().and_then(value).is_some_and(|last| last & unused == 0)
}

/// The signature that minisign wrote, in the form that a bundle has.
///
/// # Errors
/// [`Why::Signature`]: it is none.
pub fn normalized(text: &str) -> Result<String, Refused> {
    let mut lines = text.lines();
    lines.next();
    let mut out = format!("{COMMENT}\n");
    for line in lines.take(3) {
        out.push_str(line);
        out.push('\n');
    }
    decode(&out)?;
    Ok(out)
}

/// Making keys and signatures.
#[cfg(any(feature = "sign", test))]
pub mod make {
    use std::io::Cursor;

    use minisign::{KeyPair, SecretKeyBox};

    use super::COMMENT;
    use crate::bundle::pack::Manifest;
    use crate::bundle::refused::{Refused, Why};

    /// A new pair of keys, as minisign's files hold them.
    #[derive(Clone)]
    pub struct Keys {
        /// Of whoever signs: the text of a `minisign.key`.
        pub secret: String,
        /// For devices: one line of Base64.
        pub public: String,
    }

    impl std::fmt::Debug for Keys {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
        }
    }

    fn failed(what: &str, error: &minisign::PError) -> Refused {
        Refused::new(Why::Io, format!("{what}: {error}"))
    }

    /// Makes a pair of keys. With a password, whoever reads the secret key's file needs that, too; minisign derives the key from it with a
    /// gigabyte of memory.
    ///
    /// # Errors
    /// No random numbers, or no memory.
    pub fn keys(password: Option<String>) -> Result<Keys, Refused> {
        let pair = match password {
            Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
            None => KeyPair::generate_unencrypted_keypair(),
        };
        let pair = pair.map_err(|e| failed("new keys", &e))?;
        let secret = pair.sk.to_box(Some("attendant secret key")).map_err(|e| failed("new keys", &e))?;
        Ok(Keys { secret: secret.into_string(), public: pair.pk.to_base64() })
    }

    /// Signs the packed bundle's manifest with the secret key in `secret`.
    ///
    /// # Errors
    /// [`Why::Key`]: no secret key, or not its password.
    pub fn sign(manifest: &Manifest, bytes: &[u8], secret: &str, password: Option<String>) -> Result<String, Refused> {
        let unreadable = |e: minisign::PError| Refused::new(Why::Key, format!("the secret key cannot be used: {e}"));
        let boxed = SecretKeyBox::from_string(secret).map_err(unreadable)?;
        let key = match password {
            Some(password) => boxed.into_secret_key(Some(password)),
            None => boxed.into_unencrypted_secret_key(),
        };
        let key = key.map_err(unreadable)?;
        let trusted = format!("{} {} counter {}", manifest.name, manifest.version, manifest.counter);
        let untrusted = COMMENT.trim_start_matches("untrusted comment: ");
        let signed = minisign::sign(None, &key, Cursor::new(bytes), Some(&trusted), Some(untrusted));
        let text = signed.map_err(|e| failed("the signature", &e))?.into_string();
        super::normalized(&text)
    }
}
