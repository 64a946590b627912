//! Packed bundles that were changed, cut, forged: each is refused, with its reason.

use std::fs;

use super::*;
use crate::bundle::sign::make::{self, Keys};
use crate::bundle::sign::normalized;

/// Small files of a bundle; nobody loads them.
pub(crate) fn files(dir: &Path, version: &str) {
    fs::write(dir.join("bundle.toml"), format!("[bundle]\nname = \"tiny\"\nversion = \"{version}\"\n")).unwrap();
    fs::write(dir.join("a.onnx"), vec![7; 700]).unwrap();
    fs::write(dir.join("b.onnx"), vec![8; 700]).unwrap();
    fs::create_dir_all(dir.join("text")).unwrap();
    fs::write(dir.join("text/labels.txt"), "yes\nno\n").unwrap();
    fs::write(dir.join(".hidden"), "x").unwrap();
}

/// A packed bundle, not signed.
pub(crate) fn packed(version: &str, counter: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), version);
    let mut out = Vec::new();
    let packing = Packing { name: "tiny", version, counter, leave_out: &[], more: &[] };
    pack(dir.path(), &packing, &mut out).unwrap();
    out
}

/// The same file with the signature of `keys`.
pub(crate) fn signed(file: &[u8], keys: &Keys) -> Vec<u8> {
    let bundle = Packed::open(file, &Trust::anything()).unwrap();
    let signature = make::sign(&bundle.manifest, &bundle.manifest_bytes, &keys.secret, None).unwrap();
    replaced(file, &signature)
}

fn replaced(file: &[u8], signature: &str) -> Vec<u8> {
    let mut out = Vec::new();
    with_signature(io::Cursor::new(file), signature, &mut out).unwrap();
    out
}

pub(crate) fn trust(keys: &[&Keys]) -> Trust {
    let keys: Vec<String> = keys.iter().map(|k| k.public.clone()).collect();
    Trust::new(&keys, true).unwrap()
}

fn verify(file: &[u8], trust: &Trust) -> Result<Manifest, Refused> {
    Packed::open(file, trust)?.verify()
}

fn why(file: &[u8], trust: &Trust) -> Option<Why> {
    verify(file, trust).err().map(|refused| refused.why)
}

/// A file of any manifest and any parts, as somebody would make it who does not use [`pack`].
fn forged(manifest: &[u8], keys: &Keys, parts: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    write_part(&mut out, MANIFEST, manifest).unwrap();
    let about = Manifest { format: 1, name: "x".into(), version: "1".into(), counter: 1, parts: vec![] };
    let signature = make::sign(&about, manifest, &keys.secret, None).unwrap();
    write_part(&mut out, SIGNATURE, signature.as_bytes()).unwrap();
    for (name, bytes, content) in parts {
        out.extend(header(name, *bytes));
        out.extend(*content);
        out.extend(vec![0; padding(content.len() as u64)]);
    }
    out.extend([0; 2 * BLOCK]);
    out
}

#[test]
fn the_same_files_give_the_same_bytes_and_come_out_again() {
    let (keys, file) = (make::keys(None).unwrap(), packed("1.0.0", 1));
    assert!(file == packed("1.0.0", 1));
    let file = signed(&file, &keys);
    let again = signed(&file, &keys);
    assert_eq!(file.len(), again.len(), "a signature takes the place of the one that was there");
    verify(&again, &trust(&[&keys])).unwrap();
    let bundle = Packed::open(&file[..], &trust(&[&keys])).unwrap();
    assert_eq!(bundle.signer, Signer::Key(0));
    let names: Vec<&str> = bundle.manifest.parts.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["a.onnx", "b.onnx", "bundle.toml", "text/labels.txt"]);
    let mut contents = Vec::new();
    let shared = std::cell::RefCell::new(&mut contents);
    struct Collect<'a, 'b>(&'a std::cell::RefCell<&'b mut Vec<u8>>);
    impl Write for Collect<'_, '_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    bundle.unpack(|_| Ok(Collect(&shared))).unwrap();
    assert!(contents.ends_with(b"yes\nno\n") && contents.starts_with(&[7; 700]));
}

#[test]
fn tar_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny-1.0.0.attendant");
    fs::write(&path, signed(&packed("1.0.0", 1), &make::keys(None).unwrap())).unwrap();
    let out = std::process::Command::new("tar").arg("-tf").arg(&path).output().expect("tar is on every Linux");
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let expected = "manifest.json\nmanifest.json.minisig\na.onnx\nb.onnx\nbundle.toml\ntext/labels.txt\n";
    assert_eq!(String::from_utf8_lossy(&out.stdout), expected);
}

/// What a changed byte at each place has to be refused for.
fn regions(file: &[u8]) -> Vec<(std::ops::Range<usize>, &'static [Why])> {
    let bundle = Packed::open(file, &Trust::anything()).unwrap();
    let mut regions: Vec<(std::ops::Range<usize>, &'static [Why])> = Vec::new();
    let mut at = 0;
    let mut add = |bytes: u64, whys: &'static [Why]| {
        let end = at + bytes as usize;
        regions.push((at..end, whys));
        at = end;
    };
    let signature = bundle.signature.as_ref().unwrap().len() as u64;
    let manifest = bundle.manifest_bytes.len() as u64;
    // a changed key id is another key's
    let own: [(u64, &'static [Why]); 2] = [(manifest, &[Why::Signature]), (signature, &[Why::Signature, Why::Key])];
    let parts = bundle.manifest.parts.iter().map(|p| (p.bytes, &[Why::Part][..]));
    for (bytes, whys) in own.into_iter().chain(parts) {
        add(BLOCK as u64, &[Why::Layout]);
        add(bytes, whys);
        add(padding(bytes) as u64, &[Why::Layout]);
    }
    add(2 * BLOCK as u64, &[Why::Layout]);
    assert_eq!(at, file.len());
    regions
}

#[test]
fn every_byte_that_is_changed_is_refused_for_its_reason() {
    let keys = make::keys(None).unwrap();
    let (file, trust) = (signed(&packed("1.0.0", 1), &keys), trust(&[&keys]));
    verify(&file, &trust).unwrap();
    let regions = regions(&file);
    let mut changed = file.clone();
    let mut check = |at: usize, mask: u8| {
        changed[at] ^= mask;
        let why = why(&changed, &trust);
        let (_, expected) = regions.iter().find(|(range, _)| range.contains(&at)).unwrap();
        assert!(
            why.is_some_and(|why| expected.contains(&why)),
            "byte {at} ^ {mask:#x}: {why:?}, expected {expected:?}"
        );
        changed[at] ^= mask;
    };
    // every byte once, and then 10000 positions in all
    let mut seed = 20_261_130_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for at in 0..file.len() {
        check(at, 1 << (random() % 8));
    }
    for _ in file.len()..10_000 {
        check(random() % file.len(), (random() % 255 + 1) as u8);
    }
}

#[test]
fn cut_anywhere_it_is_truncated_and_longer_it_is_refused() {
    let keys = make::keys(None).unwrap();
    let (file, trust) = (signed(&packed("1.0.0", 1), &keys), trust(&[&keys]));
    for len in 0..file.len() {
        assert_eq!(why(&file[..len], &trust), Some(Why::Truncated), "cut at {len}");
    }
    for more in [&b"\0"[..], b"x", &[0; BLOCK]] {
        assert_eq!(why(&[&file, more].concat(), &trust), Some(Why::Layout));
    }
}

#[test]
fn who_signed_is_who_the_device_knows() {
    let [ours, theirs] = [(); 2].map(|()| make::keys(None).unwrap());
    let (plain, other) = (packed("1.0.0", 1), packed("1.1.0", 2));
    let (good, bad) = (signed(&plain, &ours), signed(&plain, &theirs));
    let old_signature = Packed::open(&good[..], &Trust::anything()).unwrap().signature.unwrap();
    let replayed = replaced(&other, &old_signature);
    let no_keys = |required| Trust::new(&[], required).unwrap();
    let optional = Trust::new(std::slice::from_ref(&ours.public), false).unwrap();
    // (case, file, trust, reason)
    let cases: &[(&str, &[u8], &Trust, Option<Why>)] = &[
        ("our key", &good, &trust(&[&ours]), None),
        ("our key among others", &good, &trust(&[&theirs, &ours]), None),
        ("another key", &bad, &trust(&[&ours]), Some(Why::Key)),
        ("no signature", &plain, &trust(&[&ours]), Some(Why::Unsigned)),
        ("no signature, not asked for", &plain, &optional, None),
        ("another key where none is asked for", &bad, &optional, Some(Why::Key)),
        ("an old signature on a new bundle", &replayed, &trust(&[&ours]), Some(Why::Signature)),
        ("an old signature where none is asked for", &replayed, &optional, Some(Why::Signature)),
        ("no keys", &bad, &no_keys(false), None),
        ("no keys, but a signature is asked for", &good, &no_keys(true), Some(Why::Key)),
    ];
    for (case, file, trust, expected) in cases {
        assert_eq!(why(file, trust), *expected, "{case}");
    }
    let signer = |file: &[u8], trust: &Trust| Packed::open(file, trust).unwrap().signer;
    assert_eq!(signer(&good, &trust(&[&theirs, &ours])), Signer::Key(1));
    assert_eq!(signer(&plain, &optional), Signer::Nobody);
    assert_eq!(signer(&bad, &no_keys(false)), Signer::Unchecked);
}

#[test]
fn parts_that_change_places_are_refused() {
    let keys = make::keys(None).unwrap();
    let (file, trust) = (signed(&packed("1.0.0", 1), &keys), trust(&[&keys]));
    let at =
        |name: &str| (0..file.len() / BLOCK).find(|i| file[i * BLOCK..].starts_with(name.as_bytes())).unwrap() * BLOCK;
    let (a, b, len) = (at("a.onnx\0"), at("b.onnx\0"), 3 * BLOCK);
    let swap = |skip: usize| {
        let mut swapped = file.clone();
        swapped[a + skip..a + len].copy_from_slice(&file[b + skip..b + len]);
        swapped[b + skip..b + len].copy_from_slice(&file[a + skip..a + len]);
        swapped
    };
    assert_eq!(why(&swap(0), &trust), Some(Why::Layout), "with their headers");
    assert_eq!(why(&swap(BLOCK), &trust), Some(Why::Part), "their contents");
    let mut without = file.clone();
    without.drain(a..a + len);
    assert_eq!(why(&without, &trust), Some(Why::Layout), "one is missing");
    let mut twice = file.clone();
    twice.splice(b..b, file[a..a + len].iter().copied());
    assert_eq!(why(&twice, &trust), Some(Why::Layout), "one is there twice");
}

#[test]
fn what_a_manifest_may_not_say_is_refused_though_it_is_signed() {
    let keys = make::keys(None).unwrap();
    let trust = trust(&[&keys]);
    let hash = hex(&Sha256::digest(b"x"));
    let part = |name: &str, bytes: u64| format!(r#"{{"name":{name:?},"bytes":{bytes},"sha256":"{hash}"}}"#);
    let whole = |parts: &str| format!(r#"{{"format":1,"name":"x","version":"1.0.0","counter":1,"parts":[{parts}]}}"#);
    let toml = part("bundle.toml", 1);
    let with = |name: &str| whole(&format!("{},{toml}", part(name, 1)));
    let many: Vec<String> = (0..=PARTS_MAX).map(|i| part(&format!("a{i:04}"), 0)).collect();
    let mut cases: Vec<(String, Why)> = vec![
        (String::new(), Why::Manifest),
        ("{}".into(), Why::Manifest),
        (whole(&toml).replace("\"format\":1", "\"format\":2"), Why::Manifest),
        (whole(&toml).replace("\"name\":\"x\"", "\"name\":\"../x\""), Why::Manifest),
        (whole(&toml).replace("1.0.0", "1.0.0/.."), Why::Manifest),
        (whole(&toml).replace("\"counter\":1", "\"counter\":-1"), Why::Manifest),
        (whole(&toml).replace("\"counter\":1", "\"counter\":1,\"more\":1"), Why::Manifest),
        (whole(&toml).replace(&hash, "00"), Why::Manifest),
        (whole(&part("a", 1)), Why::Manifest),
        (whole(&format!("{toml},{toml}")), Why::Duplicate),
        (whole(&format!("{toml},{}", part("a", 1))), Why::Layout),
        (whole(&part("bundle.toml", PART_BYTES_MAX + 1)), Why::Size),
        (whole(&part("bundle.toml", u64::MAX)), Why::Size),
        (whole(&[part("a", PART_BYTES_MAX), part("b", PART_BYTES_MAX), toml.clone()].join(",")), Why::Size),
        (whole(&many.join(",")), Why::Size),
    ];
    let names = [
        "../a",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        "",
        ".a",
        "a/.b",
        "a\\b",
        "a\0b",
        "ä",
        "a b",
        MANIFEST,
        SIGNATURE,
    ];
    cases.extend(names.iter().map(|name| (with(&name.replace('\0', "\\u0000")), Why::Name)));
    cases.push((with(&"a".repeat(100)), Why::Name));
    for (manifest, expected) in &cases {
        let manifest = manifest.replace("\\\\u0000", "\\u0000");
        let file = forged(manifest.as_bytes(), &keys, &[("bundle.toml", 1, b"x")]);
        let refused = verify(&file, &trust).unwrap_err();
        assert_eq!(refused.why, *expected, "{manifest:.200}: {refused}");
    }
    verify(&forged(whole(&toml).as_bytes(), &keys, &[("bundle.toml", 1, b"x")]), &trust).unwrap();
}

#[test]
fn lengths_and_names_in_headers_are_not_believed() {
    let keys = make::keys(None).unwrap();
    let trust = trust(&[&keys]);
    let hash = hex(&Sha256::digest(b"x"));
    let manifest = format!(
        r#"{{"format":1,"name":"x","version":"1.0.0","counter":1,"parts":[{{"name":"bundle.toml","bytes":1,"sha256":"{hash}"}}]}}"#
    );
    let huge = (1 << 33) - 1;
    for part in [("bundle.toml", huge, &b"x"[..]), ("bundle.toml", 0, b"x"), ("../bundle.toml", 1, b"x")] {
        assert_eq!(why(&forged(manifest.as_bytes(), &keys, &[part]), &trust), Some(Why::Layout), "{part:?}");
    }
    for (name, bytes) in [(MANIFEST, MANIFEST_BYTES_MAX + 1), (MANIFEST, huge)] {
        assert_eq!(why(&header(name, bytes), &trust), Some(Why::Size));
    }
    let mut long = forged(manifest.as_bytes(), &keys, &[]);
    long.truncate(BLOCK + manifest.len() + padding(manifest.len() as u64));
    long.extend(header(SIGNATURE, SIGNATURE_BYTES_MAX + 1));
    assert_eq!(why(&long, &trust), Some(Why::Size));
    for foreign in [&b"PK\x03\x04"[..], &[0; 1024], &[0xff; 1024]] {
        let expected = if foreign.len() < BLOCK { Why::Truncated } else { Why::Layout };
        assert_eq!(why(foreign, &trust), Some(expected));
    }
}

#[test]
fn a_signature_has_one_form() {
    let keys = make::keys(None).unwrap();
    let file = signed(&packed("1.0.0", 1), &keys);
    let text = Packed::open(&file[..], &Trust::anything()).unwrap().signature.unwrap();
    assert_eq!(normalized(&text.replace("signature of an attendant bundle", "x")).unwrap(), text);
    for (from, to) in [("\n", "\r\n"), ("trusted comment: ", "trusted: "), ("=\n", "\n"), ("untrusted", "Untrusted")] {
        let changed = text.replacen(from, to, 1);
        let bundle = replaced(&file, &text);
        let manifest = Packed::open(&bundle[..], &Trust::anything()).unwrap().manifest_bytes;
        let refused = trust(&[&keys]).check(&manifest, Some(&changed)).unwrap_err();
        assert_eq!(refused.why, Why::Signature, "{from:?}: {refused}");
    }
    let key = |text: &str| Trust::new(&[text.to_owned()], true).map(|_| ()).unwrap_err().1;
    assert!(key("RWabc").contains("is no public key"), "{}", key("RWabc"));
}

#[test]
fn the_stock_program_agrees() {
    let found = std::process::Command::new("minisign").arg("-v").output();
    if found.is_err() {
        eprintln!("skipped: no minisign on this machine (apt install minisign)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |program: &str, args: &[&str]| {
        let out = std::process::Command::new(program).args(args).current_dir(dir.path()).output().unwrap();
        (
            out.status.success(),
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)),
        )
    };
    let keys = make::keys(None).unwrap();
    fs::write(dir.path().join("x.attendant"), signed(&packed("1.0.0", 3), &keys)).unwrap();
    assert!(run("tar", &["-xf", "x.attendant"]).0);
    let (fine, said) = run("minisign", &["-Vm", "manifest.json", "-P", &keys.public]);
    assert!(fine && said.contains("Trusted comment: tiny 1.0.0 counter 3"), "{said}");
    // and the other way: what it signs with its own key is taken
    assert!(run("minisign", &["-GW", "-p", "stock.pub", "-s", "stock.key"]).0);
    let (fine, said) = run("minisign", &["-Sm", "manifest.json", "-s", "stock.key", "-x", "stock.minisig"]);
    assert!(fine, "{said}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let public = read("stock.pub").lines().nth(1).unwrap().to_owned();
    let file = replaced(&packed("1.0.0", 3), &normalized(&read("stock.minisig")).unwrap());
    verify(&file, &Trust::new(&[public], true).unwrap()).unwrap();
    // and it signs with a key of ours
    fs::write(dir.path().join("ours.key"), &keys.secret).unwrap();
    let (fine, said) = run("minisign", &["-Sm", "manifest.json", "-s", "ours.key", "-x", "ours.minisig"]);
    assert!(fine, "{said}");
    let file = replaced(&file, &normalized(&read("ours.minisig")).unwrap());
    verify(&file, &trust(&[&keys])).unwrap();
}

#[test]
fn a_name_that_no_bundle_may_have_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), "1.0.0");
    fs::write(dir.path().join("a b"), "x").unwrap();
    let packing = Packing { name: "tiny", version: "1.0.0", counter: 1, leave_out: &[], more: &[] };
    assert_eq!(pack(dir.path(), &packing, &mut Vec::new()).unwrap_err().why, Why::Name);
    let leave_out = ["a b".to_owned(), "b.onnx".to_owned()];
    let more = [(GOLDEN.to_owned(), b"{}\n".to_vec())];
    let packing = Packing { leave_out: &leave_out, more: &more, ..packing };
    let manifest = pack(dir.path(), &packing, &mut Vec::new()).unwrap();
    let names: Vec<&str> = manifest.parts.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["a.onnx", "bundle.toml", GOLDEN, "text/labels.txt"]);
}
