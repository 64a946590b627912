//! Which bundle a run starts with, and the thread that brings it new ones: from the words of `attendant.toml`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use attendant::bundle::Bundle;
use attendant::bundle::install::{Store, check_folder};
use attendant::config::trust::{TrustSpec, UpdateSpec};
use attendant::pipeline::Options;
use attendant::supervise::update::{Limits, Settings, Updater};
use attendant::time::{Clock, Micros};

use super::outside::Visitors;
use super::{Common, Failure};

/// The bundle of a run, and where new ones come from.
#[derive(Debug)]
pub struct Source {
    /// What runs.
    pub bundle: Bundle,
    /// The device's own bundle.
    own: PathBuf,
    updates: Option<(Store, UpdateSpec)>,
    is_on_trial: bool,
}

/// Chooses the bundle to run: the installed one, else the device's own. Either has to be signed if the configuration says so. Only a live run
/// puts a bundle on trial.
pub fn choose(
    common: &Common,
    trust: &TrustSpec,
    update: Option<&UpdateSpec>,
    is_live: bool,
) -> Result<Source, Failure> {
    let keys = super::bundle::trust_of(trust)?;
    if !keys.requires_signature() {
        let why = if keys.has_keys() { "[trust] require_signed = false" } else { "[trust] has no keys" };
        log::info!("bundles that nobody has signed are taken: {why}");
    }
    let own = attendant::bundle::locate(common.bundle.as_deref());
    let Some(spec) = update else {
        let own = own?;
        check_folder(&own, &keys).map_err(Failure::Refused)?;
        return Ok(Source { bundle: Bundle::open(&own)?, own, updates: None, is_on_trial: false });
    };
    let mut store = Store::open(&spec.state_dir, keys).map_err(Failure::Refused)?;
    // before the sandbox, which only opens what is there
    std::fs::create_dir_all(spec.inbox())
        .map_err(|source| Failure::Output { path: spec.inbox().display().to_string(), source })?;
    let (dir, is_on_trial) = if is_live {
        let chosen = store.start();
        (chosen.dir, chosen.is_on_trial)
    } else {
        let dir = store.current_dir();
        dir.iter().try_for_each(|dir| check_folder(dir, store.trust()).map(|_| ())).map_err(Failure::Refused)?;
        (dir, false)
    };
    let (bundle, own) = match dir {
        // without a bundle of its own a device has nothing to go back to, but runs
        Some(dir) => (Bundle::open(&dir)?, own.unwrap_or_default()),
        None => {
            let own = own?;
            check_folder(&own, store.trust()).map_err(Failure::Refused)?;
            (Bundle::open(&own)?, own)
        }
    };
    Ok(Source { bundle, own, updates: Some((store, spec.clone())), is_on_trial })
}

impl Source {
    /// Starts the thread that looks for new bundles, if there is where from, for a live run with `visitors`; SIGHUP makes it look at once.
    pub fn start(
        self,
        options: &Options,
        clock: &Arc<dyn Clock>,
        visitors: &mut Visitors,
    ) -> Result<Option<Updater>, Failure> {
        let Some((store, spec)) = self.updates else { return Ok(None) };
        let ms = |seconds: u32| Micros::from_ms(u64::from(seconds) * 1000);
        let settings = Settings {
            inbox: spec.inbox(),
            look_every: (spec.look_s > 0).then(|| ms(spec.look_s)),
            limits: spec.self_test.then(|| Limits { time_max: ms(spec.self_test_s) }),
            probation: ms(spec.probation_s),
            own: self.own,
            running: self.bundle.manifest.bundle.name.clone(),
            options: options.clone(),
            is_on_trial: self.is_on_trial,
        };
        let asked = Arc::new(AtomicBool::new(false));
        let failed = |path: String| move |source| Failure::Output { path, source };
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&asked))
            .map_err(failed("signal handler".into()))?;
        let notices = Arc::clone(visitors.outside.notices.get_or_insert_default());
        let inbox = settings.inbox.display().to_string();
        let updater = Updater::start(store, settings, Arc::clone(clock), notices, &visitors.registry, asked)
            .map_err(failed(inbox))?;
        visitors.outside.updates = Some(updater.updates());
        Ok(Some(updater))
    }
}
