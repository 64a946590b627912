//! Where a bundle is, when the command line does not say it.

use std::path::{Path, PathBuf};

use super::{BundleError, MANIFEST};
use crate::board::BOARD;

/// Environment variable that names the bundle's directory.
const VARIABLE: &str = "ATTENDANT_BUNDLE";

/// The source tree. A program that is shipped (deploy/build.sh) has no path of the machine it was built on: not to tell it, and to be the
/// same bytes wherever it is built.
const SOURCE: Option<&str> = match option_env!("ATTENDANT_SHIPPED") {
    None => Some(env!("CARGO_MANIFEST_DIR")),
    Some(_) => None,
};

/// The directory of the bundle to use: `named` (the command line's `--bundle`), else `$ATTENDANT_BUNDLE`, else the board's bundle in
/// `models/` of the working directory, beside the executable, in `../share/attendant/models` of the executable, or in the source
/// tree that the binary was built from, unless it was built to be shipped. A directory, or its `bundle.toml`.
///
/// # Errors
/// [`BundleError::NotFound`] lists the places. A bundle that is named but is not there is never replaced by another.
pub fn locate(named: Option<&Path>) -> Result<PathBuf, BundleError> {
    let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let executable = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    locate_in(&Places {
        named,
        variable: variable.as_deref(),
        working: Path::new("."),
        executable: executable.as_deref(),
        source: SOURCE.map(Path::new),
    })
}

/// What the search depends on.
pub(super) struct Places<'a> {
    pub named: Option<&'a Path>,
    pub variable: Option<&'a Path>,
    pub working: &'a Path,
    pub executable: Option<&'a Path>,
    pub source: Option<&'a Path>,
}

pub(super) fn locate_in(places: &Places<'_>) -> Result<PathBuf, BundleError> {
    for (path, who) in [(places.named, "--bundle"), (places.variable, VARIABLE)] {
        let Some(path) = path else { continue };
        let dir = if path.ends_with(MANIFEST) { path.parent().unwrap_or(Path::new("")) } else { path };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        if dir.join(MANIFEST).is_file() {
            return Ok(dir.to_owned());
        }
        let what = format!("{who} {}: there is no {MANIFEST}; name the directory of a bundle", path.display());
        return Err(BundleError::NotFound { what, looked: vec![dir.to_owned()] });
    }
    let bundle = BOARD.model.bundle;
    let mut looked = vec![places.working.join("models").join(bundle)];
    if let Some(executable) = places.executable {
        looked.push(executable.join("models").join(bundle));
        looked.push(executable.join("../share/attendant/models").join(bundle));
    }
    looked.extend(places.source.map(|source| source.join("models").join(bundle)));
    match looked.iter().find(|dir| dir.join(MANIFEST).is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => {
            let what = format!("the bundle {bundle} is nowhere; name its directory with --bundle or in {VARIABLE}");
            Err(BundleError::NotFound { what, looked })
        }
    }
}
