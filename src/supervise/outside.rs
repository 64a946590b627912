//! The inference loop's hand for the outside: takes commands out of the mailbox, renews what observers see.
//!
//! Both loops ([`super::live`], [`super::play`]) call it once a turn. With nobody outside it costs a comparison. The other ends, a web
//! server or a broker's client, are sinks and run on the thread of `supervise::network`.

use std::sync::Arc;

use log::{info, warn};

use crate::pipeline::Pipeline;
use crate::queue::Wake;
use crate::signal::{
    COMMANDS_MAX, Command, Event, Mailbox, Monitor, NOTICES_MAX, Notice, Notices, Posted, Preview, SNAPSHOT_EVERY,
    Sample, Snapshot, Speaking,
};
use crate::time::{self, Micros};

use super::sandbox::Watch;
use super::update::{Hand, Updates};

/// Who sends commands to a run, and who looks at it. By default nobody.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Where commands come from.
    pub commands: Option<Arc<Mailbox>>,
    /// Where observers look.
    pub monitor: Option<Arc<Monitor>>,
    /// Whether the device itself is talking.
    pub speaking: Option<Arc<Speaking>>,
    /// What outputs have to say in the event stream.
    pub notices: Option<Arc<Notices>>,
    /// Where new bundles come from: of live runs, and of recordings that are played again and again.
    pub updates: Option<Arc<Updates>>,
    /// Who hears of what the sandbox has refused.
    pub sandbox: Option<Arc<Watch>>,
    /// Who wants to see the camera's pictures.
    pub preview: Option<Arc<Preview>>,
    /// Files that have ended leave the loop running until it is stopped, so that the page goes on answering.
    pub stays: bool,
}

impl Outside {
    /// What a loop waits on that is also woken by a command.
    pub(super) fn wake(&self) -> Wake {
        self.commands.as_ref().map_or_else(Wake::new, |mailbox| mailbox.wake().clone())
    }

    /// The loop's side of it, for `pipeline`.
    pub(super) fn attend(&self, pipeline: &mut Pipeline) -> Attention<'_> {
        let mut told: Arc<str> = "".into();
        if let Some(monitor) = &self.monitor {
            pipeline.measure(monitor, time::now_ns);
            if monitor.tell(pipeline.about()) {
                told = Arc::clone(pipeline.bundle());
            }
        }
        Attention {
            outside: self,
            is_hushed: false,
            posted: Posted::default(),
            next: Micros::ZERO,
            hand: Hand::default(),
            told,
        }
    }
}

/// What a loop holds to attend to the outside; closes the mailbox when it ends.
pub(super) struct Attention<'a> {
    outside: &'a Outside,
    is_hushed: bool,
    posted: Posted,
    /// When, on the loop's clock, observers are due a new snapshot.
    next: Micros,
    hand: Hand,
    /// The bundle that observers have been told of last.
    told: Arc<str>,
}

impl Attention<'_> {
    /// Carries out the commands that wait, at most a mailbox full; `now` is the time of the samples.
    pub(super) fn carry_out(&mut self, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        let Some(mailbox) = &self.outside.commands else { return };
        for _ in 0..COMMANDS_MAX {
            if !mailbox.take(&mut self.posted) {
                return;
            }
            let Posted { command, reply } = &mut self.posted;
            let result = match (&*command, &self.outside.updates) {
                (Command::Reload, Some(updates)) => updates.ask(),
                _ => pipeline.command(command, now, events),
            };
            match &result {
                Ok(()) => info!("{now}: carried out {:?}", Brief(command)),
                Err(refusal) => warn!("refused {:?}: {refusal}", Brief(command)),
            }
            mailbox.note(&result);
            if let Some(reply) = reply.take() {
                reply(&result);
            }
        }
    }

    /// Lets a new bundle take over, or the one before it: between two windows.
    pub(super) fn update(&mut self, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        if let Some(updates) = &self.outside.updates {
            self.hand.turn(updates, pipeline, now, events);
        }
        // before its first event is emitted, unless it is being read: then at the next turn
        if let Some(monitor) = &self.outside.monitor
            && !Arc::ptr_eq(&self.told, pipeline.bundle())
            && monitor.tell(pipeline.about())
        {
            self.told = Arc::clone(pipeline.bundle());
        }
    }

    /// Hands on what outputs, and the sandbox, have to say.
    pub(super) fn report(&self, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        if let Some(news) = self.outside.sandbox.as_ref().and_then(|watch| watch.news()) {
            pipeline.notice(&"sandbox".into(), "refused", news.into(), now, events);
        }
        let Some(notices) = &self.outside.notices else { return };
        for _ in 0..NOTICES_MAX {
            let Some(Notice { source, notice, reason }) = notices.take() else { return };
            pipeline.notice(&source, &notice, reason, now, events);
        }
    }

    /// While the device itself is talking, whatever listens is left out, and sound that was recorded meanwhile is silenced: it may come
    /// after the end.
    pub(super) fn hush(&mut self, sample: &mut Sample, pipeline: &mut Pipeline, now: Micros, events: &mut Vec<Event>) {
        let Some(speaking) = &self.outside.speaking else { return };
        if let Sample::Audio(block) = sample
            && speaking.is_on(block.t)
        {
            block.data.fill(0.0);
        }
        let is_on = speaking.is_on(now);
        if is_on != self.is_hushed {
            self.is_hushed = is_on;
            pipeline.hush(is_on, now, events);
        }
    }

    /// The pipeline has taken `sample` of `source`: a picture is copied if somebody waits for one.
    pub(super) fn preview(&self, source: &str, sample: &Sample, pipeline: &Pipeline) {
        let Some(preview) = &self.outside.preview else { return };
        if let Sample::Frame(frame) = sample
            && preview.is_wanted()
            && *preview.source == *source
            && pipeline.takes_pictures_of(source)
        {
            preview.offer(frame);
        }
    }

    /// The loop has come round at `clock_now`. Observers get a new snapshot if one is due; `more` adds what the pipeline does not know.
    pub(super) fn show(
        &mut self,
        pipeline: &Pipeline,
        now: Micros,
        clock_now: Micros,
        more: impl FnOnce(&mut Snapshot),
    ) {
        let Some(monitor) = &self.outside.monitor else { return };
        monitor.beat(clock_now);
        if clock_now < self.next {
            return;
        }
        let was_free = monitor.renew(|snapshot| {
            pipeline.observe(now, snapshot);
            more(snapshot);
        });
        if was_free {
            self.next = clock_now + SNAPSHOT_EVERY;
        }
    }
}

impl Drop for Attention<'_> {
    fn drop(&mut self) {
        if let Some(mailbox) = &self.outside.commands {
            mailbox.close();
        }
        if let Some(monitor) = &self.outside.monitor {
            monitor.end();
            monitor.renew(|snapshot| snapshot.sources.iter_mut().for_each(|source| source.open = false));
        }
    }
}

/// A command for the log: what a visitor typed stays out of it.
struct Brief<'a>(&'a Command);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Command::Text(text) => write!(f, "a text of {} characters", text.chars().count()),
            other => other.fmt(f),
        }
    }
}
