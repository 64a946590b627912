//! Who may look at a run and ask things of it, and what speaks for it: from the words of `attendant.toml` and the options to services,
//! their sinks and the run's end of both.
//!
//! Here, and only here, it matters which of the network's features are compiled in.

use std::collections::BTreeMap;
use std::sync::Arc;

use attendant::config::mqtt::MqttSpec;
use attendant::config::runtime::WebSpec;
use attendant::config::speech::SpeechSpec;
use attendant::emit::Sink;
use attendant::emit::speech::{self, Speech};
use attendant::metrics::Registry;
use attendant::pipeline::Pipeline;
use attendant::signal::Speaking;
use attendant::supervise::Outside;
use attendant::supervise::sandbox::{self, Watch};
use attendant::time::{Clock, Micros};

use super::Failure;

/// What a run was told about the outside.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `[web]`, with the option's address.
    pub web: Option<WebSpec>,
    /// `[mqtt]`
    pub mqtt: Option<MqttSpec>,
    /// `[speech]`
    pub speech: Option<SpeechSpec>,
    /// What visitors are told, by language.
    pub notice: BTreeMap<String, String>,
    /// What confines the process.
    pub sandbox: sandbox::Status,
}

/// What a run is given of the outside. Dropping it ends the network's thread.
#[derive(Default)]
pub struct Visitors {
    /// The run's end.
    pub outside: Outside,
    /// What is counted outside of the data path.
    pub registry: Arc<Registry>,
    /// Where events go; in a list, as other sinks are.
    pub sinks: Vec<Box<dyn Sink>>,
    #[cfg(any(feature = "web", feature = "mqtt"))]
    _network: Option<attendant::supervise::network::Network>,
}

impl std::fmt::Debug for Visitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitors").field("outside", &self.outside).finish_non_exhaustive()
    }
}

/// Opens everything that was asked for, and starts the network's thread if there is anything to do for it.
pub fn open(asked: &Asked, pipeline: &Pipeline, clock: &Arc<dyn Clock>) -> Result<Visitors, Failure> {
    let mut visitors = Visitors::default();
    for (lang, text) in &asked.notice {
        log::info!("notice to visitors ({lang}): {text}");
    }
    let registry = Arc::clone(&visitors.registry);
    visitors.outside.sandbox = Some(Arc::new(Watch::new(&asked.sandbox, Arc::clone(&registry))));
    if let Some(spec) = &asked.speech {
        let speaking = Arc::new(Speaking::new());
        visitors.sinks.push(Box::new(voice(spec, Arc::clone(&speaking), &registry)));
        visitors.outside.speaking = Some(speaking);
    }
    serve(asked, pipeline, clock, &registry, &mut visitors)?;
    Ok(visitors)
}

/// The command that builds with a feature that is off.
#[cfg(not(all(feature = "web", feature = "mqtt")))]
fn missing(what: &str, feature: &str) -> Failure {
    Failure::Usage(format!(
        "{what} needs the feature {feature}, which this program was built without; build it with: BOARD={} cargo build --release \
         --features {feature}",
        attendant::board::BOARD.name
    ))
}

/// Says which feature is missing for what was asked.
#[cfg(not(any(feature = "web", feature = "mqtt")))]
fn serve(asked: &Asked, _: &Pipeline, _: &Arc<dyn Clock>, _: &Arc<Registry>, _: &mut Visitors) -> Result<(), Failure> {
    match (&asked.web, &asked.mqtt) {
        (Some(web), _) => Err(missing(&format!("the page on {}", web.listen), "web")),
        (_, Some(mqtt)) => Err(missing(&format!("the broker {}", mqtt.broker), "mqtt")),
        (None, None) => Ok(()),
    }
}

#[cfg(any(feature = "web", feature = "mqtt"))]
use attendant::supervise::network::{Network, Service};

/// Services and the run's end of them; the network's thread if there are any.
#[cfg(any(feature = "web", feature = "mqtt"))]
fn serve(
    asked: &Asked,
    pipeline: &Pipeline,
    clock: &Arc<dyn Clock>,
    registry: &Arc<Registry>,
    visitors: &mut Visitors,
) -> Result<(), Failure> {
    let mut services = Vec::new();
    if asked.web.is_some() || asked.mqtt.is_some() {
        visitors.outside.commands = Some(Arc::default());
        let monitor = visitors.outside.monitor.insert(Arc::default());
        monitor.tell(pipeline.about());
        visitors.outside.notices = Some(Arc::default());
    }
    if let Some(spec) = &asked.web {
        services.push(page((spec, &asked.notice), pipeline, clock, registry, visitors)?);
    }
    if let Some(spec) = &asked.mqtt {
        services.push(connect(spec, pipeline, clock, registry, visitors)?);
    }
    if !services.is_empty() {
        let help = "Panics of services that talk to a network.";
        let panics = registry.counter("attendant_network_panics_total", help, &[]);
        let failed = |source| Failure::Output { path: "the network's thread".into(), source };
        visitors._network = Some(Network::start(services, panics).map_err(failed)?);
    }
    Ok(())
}

#[cfg(all(feature = "mqtt", not(feature = "web")))]
fn page(
    (spec, _): (&WebSpec, &BTreeMap<String, String>),
    _: &Pipeline,
    _: &Arc<dyn Clock>,
    _: &Arc<Registry>,
    _: &mut Visitors,
) -> Result<Service, Failure> {
    Err(missing(&format!("the page on {}", spec.listen), "web"))
}

#[cfg(all(feature = "web", not(feature = "mqtt")))]
fn connect(
    spec: &MqttSpec,
    _: &Pipeline,
    _: &Arc<dyn Clock>,
    _: &Arc<Registry>,
    _: &mut Visitors,
) -> Result<Service, Failure> {
    // an address may be wrong, but it holds no password: the configuration refuses one
    Err(missing(&format!("the broker {}", spec.broker), "mqtt"))
}

/// Listens for browsers.
#[cfg(feature = "web")]
fn page(
    (spec, notice): (&WebSpec, &BTreeMap<String, String>),
    pipeline: &Pipeline,
    clock: &Arc<dyn Clock>,
    registry: &Arc<Registry>,
    visitors: &mut Visitors,
) -> Result<Service, Failure> {
    use attendant::emit::web;

    let failed = |source| Failure::Output { path: format!("web.listen {}", spec.listen), source };
    let listener = std::net::TcpListener::bind(spec.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let preview = preview(spec, pipeline);
    let (sink, server) = web::open(web::Setup {
        listener,
        facts: facts(pipeline, notice)?,
        names: names(spec),
        token: spec.token_file.as_deref().map(token).transpose()?,
        clients_max: spec.clients_max as usize,
        rate: web::Rate { hz: spec.rate_hz, burst_max: spec.burst_max },
        preview: preview.clone(),
        commands: visitors.outside.commands.clone().unwrap_or_default(),
        monitor: visitors.outside.monitor.clone().unwrap_or_default(),
        clock: Arc::clone(clock),
        registry: Arc::clone(registry),
    });
    visitors.sinks.push(Box::new(sink));
    visitors.outside.preview = preview;
    visitors.outside.stays = true;
    eprintln!("the page is on http://{address}/, what the models see on http://{address}/live");
    Ok(Service { name: "web", start: Box::new(move || Box::pin(server.clone().serve())) })
}

/// Where the camera's pictures can be seen, if the configuration allows it.
#[cfg(feature = "web")]
fn preview(spec: &WebSpec, pipeline: &Pipeline) -> Option<Arc<attendant::signal::Preview>> {
    let source = pipeline.camera().filter(|_| spec.preview);
    match source {
        Some(source) => log::warn!("web.preview = true: pictures of {source} can be seen on the page /live"),
        None if spec.preview => log::warn!("web.preview = true: the bundle takes no pictures, there is no preview"),
        None => {}
    }
    source.map(|source| Arc::new(attendant::signal::Preview::new(Arc::clone(source))))
}

/// Connects in the background: a broker that is away may come later.
#[cfg(feature = "mqtt")]
fn connect(
    spec: &MqttSpec,
    pipeline: &Pipeline,
    clock: &Arc<dyn Clock>,
    registry: &Arc<Registry>,
    visitors: &mut Visitors,
) -> Result<Service, Failure> {
    use attendant::emit::mqtt::{MqttSink, client, link::Link, meters::Meters};

    let options = options(spec, pipeline)?;
    options.check().map_err(|message| Failure::Usage(format!("[mqtt]: {message}")))?;
    let link = Link::new();
    let context = client::Context {
        options: Arc::new(options),
        link: Arc::clone(&link),
        mailbox: visitors.outside.commands.clone().unwrap_or_default(),
        monitor: visitors.outside.monitor.clone().unwrap_or_default(),
        notices: visitors.outside.notices.clone().unwrap_or_default(),
        meters: Arc::new(Meters::new(registry)),
        clock: Arc::clone(clock),
    };
    visitors.sinks.push(Box::new(MqttSink::new(link)));
    Ok(Service { name: "mqtt", start: Box::new(move || client::start(&context)) })
}

fn voice(spec: &SpeechSpec, speaking: Arc<Speaking>, registry: &Registry) -> Speech {
    let options = speech::Options {
        command: spec.command.clone(),
        timeout: Micros::from_ms(spec.timeout_ms.into()),
        tail: Micros::from_ms(spec.tail_ms.into()),
        languages: spec.languages.clone().into_iter().collect(),
    };
    Speech::new(options, speaking, speech::Counters::new(registry))
}

#[cfg(feature = "mqtt")]
fn options(spec: &MqttSpec, pipeline: &Pipeline) -> Result<attendant::emit::mqtt::client::Options, Failure> {
    use attendant::config::mqtt::{Broker, check_name};
    use attendant::emit::mqtt::{client, discovery::Input, topics::Topics};

    let device = spec.device.clone().unwrap_or_else(host_name);
    if let Err(message) = check_name("the host's name", &device) {
        return Err(Failure::Usage(format!("[mqtt]: {message}; give mqtt.device")));
    }
    let input = |(name, source, _): (&Arc<str>, &Arc<str>, bool)| Input {
        modality: name.to_string(),
        source: source.to_string(),
    };
    let tls = client::Files {
        ca: spec.ca_file.clone(),
        client: spec.client_cert_file.clone().zip(spec.client_key_file.clone()),
    };
    Ok(client::Options {
        broker: Broker::parse(&spec.broker).map_err(Failure::Usage)?,
        topics: Topics::new(&spec.site, &device),
        login: spec.username.clone().map(|name| (name, spec.password_file.clone())),
        tls,
        discovery: spec.discovery.then(|| spec.discovery_prefix.clone()),
        queue_dir: spec.queue_dir.clone(),
        queue_bytes_max: spec.queue_bytes_max,
        commands: spec.commands,
        inputs: pipeline.inputs().map(input).collect(),
        board: attendant::board::BOARD.name,
    })
}

/// The first label of the host's name.
#[cfg(feature = "mqtt")]
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

#[cfg(feature = "web")]
fn facts(pipeline: &Pipeline, notice: &BTreeMap<String, String>) -> Result<attendant::emit::web::Facts, Failure> {
    Ok(attendant::emit::web::Facts {
        board: attendant::board::BOARD.name,
        tier: attendant::infer::kernel_tier()?.to_string(),
        labels: pipeline.labels().to_vec(),
        inputs: pipeline.inputs().map(|(name, source, typed)| (Arc::clone(name), Arc::clone(source), typed)).collect(),
        notice: notice.clone(),
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
