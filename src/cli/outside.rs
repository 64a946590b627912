//! Who may look at a run and ask things of it: from the words of `attendant.toml` and the options to services, their sinks and the
//! run's end of both.
//!
//! Here, and only here, it matters which of the network's features are compiled in.

use std::sync::Arc;

use attendant::config::runtime::WebSpec;
use attendant::emit::Sink;
use attendant::pipeline::Pipeline;
use attendant::supervise::Outside;
use attendant::time::Clock;

use super::Failure;

/// What a run is given of the outside. Dropping it ends the network's thread.
#[derive(Default)]
pub struct Visitors {
    /// The run's end.
    pub outside: Outside,
    /// Where events go; in a list, as other sinks are.
    pub sinks: Vec<Box<dyn Sink>>,
    #[cfg(feature = "web")]
    _network: Option<attendant::supervise::network::Network>,
}

impl std::fmt::Debug for Visitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitors").field("outside", &self.outside).finish_non_exhaustive()
    }
}

/// The command that builds with the web server.
#[cfg(not(feature = "web"))]
pub fn open(web: Option<&WebSpec>, _: &Pipeline, _: &Arc<dyn Clock>) -> Result<Visitors, Failure> {
    let Some(web) = web else { return Ok(Visitors::default()) };
    Err(Failure::Usage(format!(
        "the page on {} needs the feature web, which this program was built without; build it with: BOARD={} cargo build --release \
         --features web",
        web.listen,
        attendant::board::BOARD.name
    )))
}

/// Listens, and starts the network's thread, if there is anything to serve.
#[cfg(feature = "web")]
pub fn open(web: Option<&WebSpec>, pipeline: &Pipeline, clock: &Arc<dyn Clock>) -> Result<Visitors, Failure> {
    use attendant::emit::web;
    use attendant::metrics::Registry;
    use attendant::signal::{Mailbox, Monitor};
    use attendant::supervise::network::{Network, Service};

    let Some(spec) = web else { return Ok(Visitors::default()) };
    if spec.preview {
        log::warn!("web.preview = true: this version makes no preview");
    }
    let (commands, monitor) = (Arc::new(Mailbox::new()), Arc::new(Monitor::new()));
    let registry = Arc::new(Registry::new());
    let failed = |source| Failure::Output { path: format!("web.listen {}", spec.listen), source };
    let listener = std::net::TcpListener::bind(spec.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (sink, server) = web::open(web::Setup {
        listener,
        facts: facts(pipeline)?,
        names: names(spec),
        token: spec.token_file.as_deref().map(token).transpose()?,
        clients_max: spec.clients_max as usize,
        commands: Arc::clone(&commands),
        monitor: Arc::clone(&monitor),
        clock: Arc::clone(clock),
        registry: Arc::clone(&registry),
    });
    let service = Service { name: "web", start: Box::new(move || Box::pin(server.clone().serve())) };
    let panics = registry.counter("attendant_network_panics_total", "Panics of services that talk to a network.", &[]);
    let network = Network::start(vec![service], panics).map_err(failed)?;
    eprintln!("the page is on http://{address}/, what the models see on http://{address}/live");
    Ok(Visitors {
        outside: Outside { commands: Some(commands), monitor: Some(monitor), stays: true },
        sinks: vec![Box::new(sink)],
        _network: Some(network),
    })
}

#[cfg(feature = "web")]
fn facts(pipeline: &Pipeline) -> Result<attendant::emit::web::Facts, Failure> {
    Ok(attendant::emit::web::Facts {
        bundle: Arc::clone(pipeline.bundle()),
        board: attendant::board::BOARD.name,
        tier: attendant::infer::kernel_tier()?.to_string(),
        labels: pipeline.labels().to_vec(),
        inputs: pipeline.inputs().map(|(name, source, typed)| (Arc::clone(name), Arc::clone(source), typed)).collect(),
        catalogue: pipeline.catalogue().map_or(serde_json::Value::Null, |c| c.listing()),
    })
}

/// The configured names, and the address itself unless it stands for every address.
#[cfg(feature = "web")]
fn names(spec: &WebSpec) -> Vec<String> {
    let ip = spec.listen.ip();
    let own = match ip {
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        std::net::IpAddr::V4(v4) => v4.to_string(),
    };
    spec.allowed_hosts.iter().cloned().chain((!ip.is_unspecified()).then_some(own)).collect()
}

/// The token in the file: one line, long enough that nobody guesses it.
#[cfg(feature = "web")]
fn token(path: &std::path::Path) -> Result<String, Failure> {
    const CHARS_MIN: usize = 16;
    let text = std::fs::read_to_string(path)
        .map_err(|source| attendant::config::ConfigError::Read { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.len() < CHARS_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!(
            "expected one line of at least {CHARS_MIN} visible ASCII characters, such as `openssl rand -hex 32` prints"
        );
        return Err(attendant::config::ConfigError::Invalid { path: path.to_owned(), line: 1, message }.into());
    }
    Ok(token.to_owned())
}
