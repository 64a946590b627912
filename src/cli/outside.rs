//! Who may look at a run and ask things of it, and what speaks for it: from the words of `attendant.toml` and the options to services,
//! their sinks and the run's end of both.
//!
//! Here, and only here, it matters which of the network's features are compiled in.

use std::sync::Arc;

use attendant::config::mqtt::MqttSpec;
use attendant::config::speech::SpeechSpec;
use attendant::emit::Sink;
use attendant::emit::speech::{self, Speech};
use attendant::metrics::Registry;
use attendant::pipeline::Pipeline;
use attendant::signal::{Notices, Speaking};
use attendant::supervise::Outside;
use attendant::time::{Clock, Micros};

use super::Failure;

/// What a run was told about the outside.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `[mqtt]`
    pub mqtt: Option<MqttSpec>,
    /// `[speech]`
    pub speech: Option<SpeechSpec>,
}

/// What a run is given of the outside. Dropping it ends the network's thread.
#[derive(Default)]
pub struct Visitors {
    /// The run's end.
    pub outside: Outside,
    /// Where events go; in a list, as other sinks are.
    pub sinks: Vec<Box<dyn Sink>>,
    #[cfg(feature = "mqtt")]
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
    let registry = Registry::new();
    if let Some(spec) = &asked.speech {
        let speaking = Arc::new(Speaking::new());
        visitors.sinks.push(Box::new(voice(spec, Arc::clone(&speaking), &registry)));
        visitors.outside.speaking = Some(speaking);
    }
    if let Some(spec) = &asked.mqtt {
        visitors.outside.notices = Some(Arc::new(Notices::new()));
        connect(spec, pipeline, clock, &registry, &mut visitors)?;
    }
    Ok(visitors)
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

/// The command that builds with the connection.
#[cfg(not(feature = "mqtt"))]
fn connect(spec: &MqttSpec, _: &Pipeline, _: &Arc<dyn Clock>, _: &Registry, _: &mut Visitors) -> Result<(), Failure> {
    let board = attendant::board::BOARD.name;
    // an address may be wrong, but it holds no password: the configuration refuses one
    Err(Failure::Usage(format!(
        "the broker {} needs the feature mqtt, which this program was built without; build it with: BOARD={board} cargo build \
         --release --features mqtt",
        spec.broker
    )))
}

/// Connects in the background: a broker that is away may come later.
#[cfg(feature = "mqtt")]
fn connect(
    spec: &MqttSpec,
    pipeline: &Pipeline,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
    visitors: &mut Visitors,
) -> Result<(), Failure> {
    use attendant::emit::mqtt::{MqttSink, client, link::Link, meters::Meters};
    use attendant::signal::{Mailbox, Monitor};
    use attendant::supervise::network::{Network, Service};

    let options = options(spec, pipeline)?;
    options.check().map_err(|message| Failure::Usage(format!("[mqtt]: {message}")))?;
    let link = Link::new();
    let context = client::Context {
        options: Arc::new(options),
        link: Arc::clone(&link),
        mailbox: Arc::new(Mailbox::new()),
        monitor: Arc::new(Monitor::new()),
        notices: visitors.outside.notices.clone().unwrap_or_default(),
        meters: Arc::new(Meters::new(registry)),
        clock: Arc::clone(clock),
    };
    visitors.outside.commands = Some(Arc::clone(&context.mailbox));
    visitors.outside.monitor = Some(Arc::clone(&context.monitor));
    visitors.sinks.push(Box::new(MqttSink::new(link)));
    let service = Service { name: "mqtt", start: Box::new(move || client::start(&context)) };
    let failed = |source| Failure::Output { path: spec.broker.clone(), source };
    visitors._network = Some(Network::start(vec![service]).map_err(failed)?);
    Ok(())
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
        bundle: pipeline.bundle().to_string(),
        board: attendant::board::BOARD.name,
    })
}

/// The first label of the host's name.
#[cfg(feature = "mqtt")]
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}
