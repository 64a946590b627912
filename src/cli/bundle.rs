//! `attendant bundle`: a bundle becomes one signed file, and the file becomes what a device runs.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attendant::bundle::install::{self, Store};
use attendant::bundle::pack::{self, Manifest, Packed, Packing};
use attendant::bundle::refused::{Refused, Why};
use attendant::bundle::sign::{Signer, Trust, normalized};
use attendant::bundle::{Bundle, digest};
use attendant::config::runtime::Runtime;
use attendant::config::trust::{TrustSpec, UpdateSpec};
use attendant::pipeline::Options;
use attendant::supervise::update::{Limits, golden, self_test};
use attendant::time::{Micros, MonotonicClock};
use clap::{Args, Subcommand};

use super::{Common, Failure, outln};

/// Arguments of `bundle`.
#[derive(Clone, Debug, Args)]
pub struct BundleArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make a pair of keys: the secret one signs, the public one goes into the devices' [trust] (feature sign)
    Keygen(Keygen),
    /// Make one file of the bundle, not signed yet: NAME-VERSION.attendant
    Pack(Pack),
    /// Sign a packed bundle, in place of the signature that it has
    Sign(Sign),
    /// Check a packed bundle, or a directory that was unpacked: every byte, and who signed it
    Verify(Verify),
    /// Check a packed bundle and write its parts into a new directory
    Unpack(Unpack),
    /// Check, install and test a packed bundle while no run does it; it runs, on trial, from the next start
    Install(Install),
    /// What is installed, and what runs
    Status(Status),
}

#[derive(Clone, Debug, Args)]
struct Keygen {
    /// The secret key's file; the public one is beside it with the ending .pub
    #[arg(value_name = "FILE.key")]
    file: PathBuf,
    /// File whose first line is the password of the secret key
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The secret key's file alone is enough to sign
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

#[derive(Clone, Debug, Args)]
struct Pack {
    /// Where to write it; NAME-VERSION.attendant without
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Grows with every release: devices take none with a smaller one than they have had
    #[arg(long)]
    counter: u64,
    /// A file of the bundle's directory that stays out; may be repeated
    #[arg(long, value_name = "NAME")]
    leave_out: Vec<String>,
    /// Neither make golden events nor test them: devices that test updates will refuse it
    #[arg(long)]
    untested: bool,
    /// Language that the golden events are in
    #[arg(long, value_name = "TAG", default_value = "en")]
    lang: String,
}

#[derive(Clone, Debug, Args)]
struct Sign {
    /// Packed bundle
    file: PathBuf,
    /// The secret key's file (feature sign)
    #[arg(long, value_name = "FILE.key", required_unless_present = "signature")]
    key: Option<PathBuf>,
    /// File whose first line is the password of the secret key
    #[arg(long, value_name = "FILE", requires = "key")]
    password_file: Option<PathBuf>,
    /// A signature that minisign made of the manifest.json in the file
    #[arg(long, value_name = "FILE.minisig", conflicts_with = "key")]
    signature: Option<PathBuf>,
}

/// Whose bundles are taken.
#[derive(Clone, Debug, Args)]
struct Who {
    /// Device configuration whose [trust] decides
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// A public key, or its file; may be repeated
    #[arg(long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,
}

#[derive(Clone, Debug, Args)]
struct Verify {
    /// Packed bundle, or a directory
    file: PathBuf,
    #[command(flatten)]
    who: Who,
}

#[derive(Clone, Debug, Args)]
struct Unpack {
    /// Packed bundle
    file: PathBuf,
    /// The directory to make
    dir: PathBuf,
    #[command(flatten)]
    who: Who,
}

#[derive(Clone, Debug, Args)]
struct Install {
    /// Packed bundle
    file: PathBuf,
    #[command(flatten)]
    who: Who,
    /// Where bundles are installed; else the configuration's [update]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Do not compare its answers with its golden ones
    #[arg(long)]
    untested: bool,
}

#[derive(Clone, Debug, Args)]
struct Status {
    #[command(flatten)]
    who: Who,
    /// Where bundles are installed; else the configuration's [update]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Runs the command.
pub fn run(common: &Common, args: &BundleArguments) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Keygen(args) => keygen(common, args),
        What::Pack(args) => pack_it(common, args),
        What::Sign(args) => sign(common, args),
        What::Verify(args) => verify(common, args),
        What::Unpack(args) => unpack(common, args),
        What::Install(args) => install_it(common, args),
        What::Status(args) => status(common, args),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Reads `file`, which has to be one that a bundle's command can read.
fn open(file: &Path) -> Result<BufReader<File>, Failure> {
    File::open(file).map(BufReader::new).map_err(|e| Failure::Input(format!("{}: {e}", file.display())))
}

/// The configuration's own words, if there is one.
fn configured(who: &Who) -> Result<(TrustSpec, Option<UpdateSpec>), Failure> {
    let (mut trust, update) = match &who.config {
        None => (TrustSpec::default(), None),
        Some(path) => {
            let runtime = Runtime::read(path)?;
            (runtime.trust, runtime.update)
        }
    };
    for key in &who.public_keys {
        let text = if Path::new(key).is_file() {
            std::fs::read_to_string(key).map_err(|e| Failure::Input(format!("{key}: {e}")))?
        } else {
            key.clone()
        };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        trust.keys.push(line.unwrap_or_default().to_owned());
    }
    Ok((trust, update))
}

/// What the words of a configuration come to.
pub fn trust_of(spec: &TrustSpec) -> Result<Trust, Failure> {
    Trust::new(&spec.keys, spec.requires_signature())
        .map_err(|(i, message)| Failure::Usage(format!("[trust] keys[{i}]: {message}")))
}

fn refused(path: &Path) -> impl Fn(Refused) -> Failure {
    move |refused| Failure::Refused(refused.of(path))
}

/// What `bundle pack|sign|verify|unpack --json` print.
#[derive(serde::Serialize)]
struct Report<'a> {
    file: &'a Path,
    name: &'a str,
    version: &'a str,
    counter: u64,
    parts: usize,
    bytes: u64,
    signed_by: &'a Signer,
}

fn report(common: &Common, file: &Path, manifest: &Manifest, signer: &Signer) -> Result<(), Failure> {
    let Manifest { name, version, counter, parts, .. } = manifest;
    let bytes = parts.iter().map(|p| p.bytes).sum();
    if common.json {
        let parts = parts.len();
        return common.print_json(&Report { file, name, version, counter: *counter, parts, bytes, signed_by: signer });
    }
    let who = match signer {
        Signer::Nobody => "not signed".to_owned(),
        Signer::Unchecked => "signed; no key was given to say by whom".to_owned(),
        Signer::Key(i) => format!("signed with key {i}"),
    };
    outln!("{}: {name} {version}, counter {counter}, {} parts, {bytes} bytes, {who}", file.display(), parts.len());
    Ok(())
}

/// Writes `path` whole or not at all.
fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), Refused>) -> Result<(), Failure> {
    let failed = |source| Failure::Output { path: path.display().to_string(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut out = BufWriter::new(File::create(&part).map_err(failed)?);
    let written = fill(&mut out).map_err(refused(path)).and_then(|()| {
        out.flush().and_then(|()| out.get_ref().sync_all()).and_then(|()| std::fs::rename(&part, path)).map_err(failed)
    });
    if written.is_err() {
        _ = std::fs::remove_file(&part);
    }
    written
}

fn pack_it(common: &Common, args: &Pack) -> Result<(), Failure> {
    let bundle = common.open_bundle()?;
    let mut more = Vec::new();
    let options = Options { lang: args.lang.clone() };
    let has_golden = bundle.path(pack::GOLDEN).exists();
    if !args.untested {
        let clock = MonotonicClock::new();
        if has_golden {
            self_test(&bundle, &options, &clock, &Limits::for_release()).map_err(refused(&bundle.dir))?;
        } else {
            more.push((pack::GOLDEN.to_owned(), golden(&bundle, &options).map_err(refused(&bundle.dir))?));
        }
    }
    let identity = &bundle.manifest.bundle;
    let (name, version) = (identity.name.as_str(), identity.version.as_str());
    let packing = Packing { name, version, counter: args.counter, leave_out: &args.leave_out, more: &more };
    let default = format!("{name}-{version}.{}", pack::EXTENSION);
    let out = args.out.clone().unwrap_or_else(|| default.into());
    let mut manifest = None;
    write_whole(&out, |file| {
        manifest = Some(pack::pack(&bundle.dir, &packing, file)?);
        Ok(())
    })?;
    let manifest = manifest.expect("it was written");
    report(common, &out, &manifest, &Signer::Nobody)
}

#[cfg(feature = "sign")]
fn password(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|e| Failure::Input(format!("{}: {e}", file.display())))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Some(line.to_owned())),
        _ => Err(Failure::Input(format!("{}: expected the password in its first line", file.display()))),
    }
}

#[cfg(feature = "sign")]
fn keygen(common: &Common, args: &Keygen) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;

    if args.password_file.is_none() && !args.no_password {
        let message =
            "bundle keygen: give --password-file FILE, or --no-password if the key's file is kept safe by itself";
        return Err(Failure::Usage(message.into()));
    }
    let keys =
        attendant::bundle::sign::make::keys(password(args.password_file.as_deref())?).map_err(Failure::Refused)?;
    let public = args.file.with_extension("pub");
    let create = |path: &Path, mode: u32, text: &str| {
        let mut options = File::options();
        let written = options.write(true).create_new(true).mode(mode).open(path);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|source| Failure::Output { path: path.display().to_string(), source })
    };
    create(&args.file, 0o600, &keys.secret)?;
    create(&public, 0o644, &format!("untrusted comment: attendant public key\n{}\n", keys.public))?;
    if common.json {
        return common.print_json(&serde_json::json!({
            "secret_key": args.file, "public_key_file": public, "public_key": keys.public
        }));
    }
    outln!("{}: the secret key; whoever has it decides what your devices run", args.file.display());
    outln!(
        "{}: the public key, for the devices' configuration:\n\n[trust]\nkeys = [\"{}\"]",
        public.display(),
        keys.public
    );
    Ok(())
}

#[cfg(not(feature = "sign"))]
fn keygen(_: &Common, args: &Keygen) -> Result<(), Failure> {
    Err(Failure::Usage(format!(
        "bundle keygen needs the feature sign, which this program was built without; \
         `minisign -G -s {} -p {}` makes the same",
        args.file.display(),
        args.file.with_extension("pub").display()
    )))
}

fn sign(common: &Common, args: &Sign) -> Result<(), Failure> {
    let open_it = || Packed::open(open(&args.file)?, &Trust::anything()).map_err(refused(&args.file));
    let packed = open_it()?;
    let signature = match &args.signature {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
            normalized(&text).map_err(refused(path))?
        }
        None => signature_with_key(&packed.manifest, &packed.manifest_bytes, args)?,
    };
    // nothing is signed that is not whole
    let manifest = packed.verify().map_err(refused(&args.file))?;
    let mut reader = open(&args.file)?;
    write_whole(&args.file, |file| pack::with_signature(&mut reader, &signature, file))?;
    report(common, &args.file, &manifest, &open_it()?.signer)
}

#[cfg(feature = "sign")]
fn signature_with_key(manifest: &Manifest, bytes: &[u8], args: &Sign) -> Result<String, Failure> {
    let key = args.key.as_deref().unwrap_or(Path::new(""));
    let secret = std::fs::read_to_string(key).map_err(|e| Failure::Input(format!("{}: {e}", key.display())))?;
    let password = password(args.password_file.as_deref())?;
    attendant::bundle::sign::make::sign(manifest, bytes, &secret, password).map_err(refused(key))
}

#[cfg(not(feature = "sign"))]
fn signature_with_key(_: &Manifest, _: &[u8], args: &Sign) -> Result<String, Failure> {
    let file = args.file.display();
    Err(Failure::Usage(format!(
        "bundle sign --key needs the feature sign, which this program was built without; the stock program signs too: \
         `tar -xf {file} {0} && minisign -Sm {0}`, then `attendant bundle sign {file} --signature {0}.minisig`",
        pack::MANIFEST
    )))
}

fn verify(common: &Common, args: &Verify) -> Result<(), Failure> {
    let trust = trust_of(&configured(&args.who)?.0)?;
    if args.file.is_dir() {
        let signer = install::check_folder(&args.file, &trust).map_err(Failure::Refused)?;
        let path = args.file.join(pack::MANIFEST);
        if !path.exists() {
            let bundle = Bundle::open(&args.file)?;
            let id = &bundle.id;
            let hash =
                digest::digest(&args.file).map_err(|e| Failure::Input(format!("{}: {e}", args.file.display())))?;
            if common.json {
                let file = &args.file;
                return common
                    .print_json(&serde_json::json!({"file": file, "bundle": id, "sha256": hash, "signed_by": signer}));
            }
            outln!(
                "{}: {id}, a directory that was never packed: nothing is signed; sha256 {hash}",
                args.file.display()
            );
            return Ok(());
        }
        let mut bytes = Vec::new();
        open(&path)?
            .take(pack::MANIFEST_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::Input(e.to_string()))?;
        let manifest = Manifest::parse(&bytes).map_err(refused(&path))?;
        return report(common, &args.file, &manifest, &signer);
    }
    let packed = Packed::open(open(&args.file)?, &trust).map_err(refused(&args.file))?;
    let signer = packed.signer.clone();
    let manifest = packed.verify().map_err(refused(&args.file))?;
    report(common, &args.file, &manifest, &signer)
}

fn unpack(common: &Common, args: &Unpack) -> Result<(), Failure> {
    let trust = trust_of(&configured(&args.who)?.0)?;
    let manifest = install::unpack(open(&args.file)?, &args.dir, &trust).map_err(refused(&args.file))?;
    let signer = install::check_folder(&args.dir, &trust).map_err(Failure::Refused)?;
    report(common, &args.dir, &manifest, &signer)
}

/// The store that the options name.
fn store(who: &Who, state_dir: Option<&Path>) -> Result<(Store, UpdateSpec), Failure> {
    let (trust, update) = configured(who)?;
    let spec = match (state_dir, update) {
        (Some(dir), Some(update)) => UpdateSpec { state_dir: dir.to_owned(), ..update },
        (Some(dir), None) => UpdateSpec::in_dir(dir.to_owned()),
        (None, Some(update)) => update,
        (None, None) => {
            return Err(Failure::Usage("give --state-dir, or --config with an [update] in it".into()));
        }
    };
    let store = Store::open(&spec.state_dir, trust_of(&trust)?).map_err(Failure::Refused)?;
    Ok((store, spec))
}

fn install_it(common: &Common, args: &Install) -> Result<(), Failure> {
    let (mut store, spec) = store(&args.who, args.state_dir.as_deref())?;
    // what the device has, if it has anything yet
    let own = attendant::bundle::locate(common.bundle.as_deref()).ok();
    let running = match store.state().name.as_str() {
        "" => own.and_then(|dir| Bundle::open_manifest_only(&dir).ok()).map(|b| b.manifest.bundle.name),
        name => Some(name.to_owned()),
    };
    let packed = Packed::open(open(&args.file)?, store.trust()).map_err(refused(&args.file))?;
    let running = running.unwrap_or_else(|| packed.manifest.name.clone());
    drop(packed);
    let installed = store.install(open(&args.file)?, &running).map_err(refused(&args.file))?;
    if !args.untested && spec.self_test {
        let limits = Limits { time_max: Micros::from_ms(u64::from(spec.self_test_s) * 1000) };
        let tested = Bundle::open(&installed.dir)
            .map_err(|e| Refused::new(Why::Unfit, e.to_string()))
            .and_then(|bundle| self_test(&bundle, &Options::default(), &MonotonicClock::new(), &limits));
        if let Err(refusal) = tested {
            store.discard(&installed.id);
            return Err(refused(&args.file)(refusal));
        }
    }
    if !store.is_current(&installed.id) {
        store.switch(&installed.id).map_err(Failure::Refused)?;
    }
    report(common, &installed.dir, &installed.manifest, &installed.signer)
}

fn status(common: &Common, args: &Status) -> Result<(), Failure> {
    let (store, spec) = store(&args.who, args.state_dir.as_deref())?;
    let state = store.state();
    if common.json {
        return common.print_json(state);
    }
    outln!("{}", spec.state_dir.display());
    outln!("  runs      {}", state.current.as_deref().unwrap_or("the device's own bundle"));
    if let Some(starts) = state.trial_starts {
        let before = state.previous.as_deref().unwrap_or("the device's own bundle");
        outln!("  on trial  started {starts} times; before it {before}");
    }
    outln!("  counter   {}: nothing below is taken", state.counter);
    for bad in &state.bad {
        outln!("  failed    {bad}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.attendant");
        let wrong = write_whole(&path, |file| {
            file.write_all(b"half").map_err(|e| Refused::io("x", &e))?;
            Err(Refused::new(Why::Name, "y"))
        });
        assert_eq!(wrong.unwrap_err().exit_code(), 7);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        write_whole(&path, |file| file.write_all(b"whole").map_err(|e| Refused::io("x", &e))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
