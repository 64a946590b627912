//! Advice spoken by another program: one at a time, the newest wins, ended when it takes too long.
//!
//! The program is started without a shell, in a process group of its own, so that what it starts itself goes with it. [`Sink::emit`] starts
//! it and never waits for it; [`Sink::tick`] looks after it. While it runs, and for a tail after that, [`Speaking`] is on and the
//! supervisor silences the microphones. What is spoken is the advice of a decision that enters, asks back or calls staff.
//!
//! A program that is missing or fails is said once for each reason, counted, and tried again with the next advice.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use log::{debug, info, warn};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::metrics::{Counter, Registry};
use crate::signal::{Advice, DecisionState, Event, EventKind, Speaking};
use crate::time::Micros;

use super::{Sink, SinkError};

/// Longest text: far less than a pipe holds, so that handing it over never waits.
const TEXT_BYTES_MAX: usize = 2048;

/// Of what the program says on its standard error, for the log.
const LINE_MAX: usize = 400;

/// Programs that were ended and are still there: a sound driver may hold them. With so many, nothing is started.
const ENDING_MAX: usize = 4;

/// Of the counter.
const HELP: &str =
    "Advice that was begun to be spoken, replaced by newer advice, ended for taking too long, or failed.";

/// How it is spoken.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments, with `{lang}` and `{text}`.
    pub command: Vec<String>,
    /// Longest time for one advice.
    pub timeout: Micros,
    /// How long the microphones stay muted after it.
    pub tail: Micros,
    /// What `{lang}` becomes, by the tag of the advice.
    pub languages: Vec<(String, String)>,
}

/// What happened, for metrics.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Advice that was begun.
    pub spoken: Arc<Counter>,
    /// Ended because newer advice came.
    pub replaced: Arc<Counter>,
    /// Ended because it took too long.
    pub overrun: Arc<Counter>,
    /// Could not be started, or ended with an error.
    pub failed: Arc<Counter>,
}

impl Counters {
    /// Counters of `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let of = |what| registry.counter("attendant_speech_total", HELP, &[("outcome", what)]);
        Counters { spoken: of("spoken"), replaced: of("replaced"), overrun: of("overrun"), failed: of("failed") }
    }
}

/// A program that speaks.
struct Voice {
    child: Child,
    err: Option<ChildStderr>,
    last_line: Vec<u8>,
    since: Micros,
}

/// Speaks the advice.
pub struct Speech {
    options: Options,
    speaking: Arc<Speaking>,
    counters: Counters,
    voice: Option<Voice>,
    /// Ended, not yet gone.
    ending: heapless::Vec<Child, ENDING_MAX>,
    /// To be spoken as soon as what was ended has let go of the loudspeaker.
    next: Option<Advice>,
    last_failure: String,
}

impl Speech {
    /// Nothing is started yet.
    #[must_use]
    pub fn new(options: Options, speaking: Arc<Speaking>, counters: Counters) -> Self {
        Speech {
            options,
            speaking,
            counters,
            voice: None,
            ending: heapless::Vec::new(),
            next: None,
            last_failure: String::new(),
        }
    }

    /// The command for `advice`; whether the text goes to its standard input.
    fn command(&self, advice: &Advice) -> (Command, bool) {
        let own = self.options.languages.iter().find(|(tag, _)| **tag == *advice.lang);
        let lang = own.map_or(&*advice.lang, |(_, name)| name);
        let argument = |a: &String| if a == "{text}" { spoken(&advice.text) } else { a.replace("{lang}", lang) };
        let [program, arguments @ ..] = self.options.command.as_slice() else {
            unreachable!("the configuration has a program")
        };
        let mut command = Command::new(program);
        command.args(arguments.iter().map(argument)).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        let by_stdin = !arguments.iter().any(|a| a == "{text}");
        command.stdin(if by_stdin { Stdio::piped() } else { Stdio::null() });
        (command, by_stdin)
    }

    fn start(&mut self, advice: &Advice, now: Micros) {
        let (mut command, by_stdin) = self.command(advice);
        let started = command.spawn().and_then(|mut child| {
            let err = child.stderr.take();
            if let Some(err) = &err {
                rustix::io::ioctl_fionbio(err, true)?;
            }
            if let Some(mut stdin) = child.stdin.take().filter(|_| by_stdin) {
                // one that does not read says so by its exit
                _ = stdin.write_all(spoken(&advice.text).as_bytes()).and_then(|()| stdin.write_all(b"\n"));
            }
            Ok(Voice { child, err, last_line: Vec::new(), since: now })
        });
        match started {
            Ok(voice) => {
                debug!("speech: {}", advice.text);
                self.speaking.begin();
                self.counters.spoken.inc();
                self.voice = Some(voice);
            }
            Err(error) => {
                let hint =
                    if error.kind() == io::ErrorKind::NotFound { "; install it, or give its whole path" } else { "" };
                self.fail(format!("{} cannot be started: {error}{hint}", self.options.command[0]));
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.counters.failed.inc();
        if reason != self.last_failure {
            warn!("speech: {reason}; advice is shown and not spoken");
            self.last_failure = reason;
        }
    }

    /// Ends what speaks, with everything it has started.
    fn cut(&mut self, now: Micros) {
        let Some(Voice { mut child, .. }) = self.voice.take() else { return };
        kill_group(&child);
        if !matches!(child.try_wait(), Ok(Some(_))) && self.ending.push(child).is_err() {
            unreachable!("nothing is started while as many are ending")
        }
        self.speaking.end(now + self.options.tail);
    }

    /// Looks after what was ended, and starts what waits for it.
    fn advance(&mut self, now: Micros) {
        self.ending.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
        if self.voice.is_some() {
            return;
        }
        // One that hangs in a driver does not silence the others for ever: the loudspeaker may take two.
        let is_waiting = self.ending.iter().len() > ENDING_MAX / 2 || (!self.ending.is_empty() && self.is_recent(now));
        if self.ending.is_full() && self.next.take().is_some() {
            return self.fail("programs that were ended do not go away; a sound driver may hang".into());
        }
        if !is_waiting && let Some(advice) = self.next.take() {
            self.start(&advice, now);
        }
    }

    /// Whether something was ended just now.
    fn is_recent(&self, now: Micros) -> bool {
        self.speaking.is_on(now)
    }

    /// Looks at what speaks.
    fn watch(&mut self, now: Micros) {
        let Some(voice) = &mut self.voice else { return };
        voice.listen();
        match voice.child.try_wait() {
            Ok(None) if now - voice.since >= self.options.timeout => {
                warn!(
                    "speech: {} takes longer than {} ms; ended",
                    self.options.command[0],
                    self.options.timeout.as_ms()
                );
                self.counters.overrun.inc();
                self.cut(now);
            }
            Ok(None) => {}
            Ok(Some(status)) => {
                voice.listen();
                let said = String::from_utf8_lossy(&voice.last_line).trim().to_owned();
                // what it has started and left behind would speak on unheard
                kill_group(&voice.child);
                self.voice = None;
                self.speaking.end(now + self.options.tail);
                if status.success() {
                    if !std::mem::take(&mut self.last_failure).is_empty() {
                        info!("speech: {} speaks again", self.options.command[0]);
                    }
                } else {
                    let said = if said.is_empty() { said } else { format!("; it said: {said}") };
                    self.fail(format!("{} ended ({status}){said}", self.options.command[0]));
                }
            }
            Err(error) => {
                self.fail(format!("{} cannot be watched: {error}", self.options.command[0]));
                self.cut(now);
            }
        }
    }
}

impl Voice {
    /// Reads away what stands on standard error, so that the program never waits for us; keeps the last line.
    fn listen(&mut self) {
        let Some(err) = &mut self.err else { return };
        let mut chunk = [0; 1024];
        for _ in 0..64 {
            let n = match err.read(&mut chunk) {
                Ok(0) => 0,
                Ok(n) => n,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
                Err(_) => 0,
            };
            if n == 0 {
                self.err = None;
                return;
            }
            for byte in &chunk[..n] {
                if *byte == b'\n' {
                    // the last line that says something
                    self.last_line.push(b'\n');
                    continue;
                }
                if self.last_line.last() == Some(&b'\n') {
                    self.last_line.clear();
                }
                if self.last_line.len() < LINE_MAX {
                    self.last_line.push(*byte);
                }
            }
        }
    }
}

impl Sink for Speech {
    fn emit(&mut self, event: &Event) -> Result<(), SinkError> {
        let EventKind::Decision(decision) = &event.kind else { return Ok(()) };
        let is_said = matches!(decision.state, DecisionState::Enter | DecisionState::Ask | DecisionState::Escalate);
        let Some(advice) = decision.advice.as_ref().filter(|a| is_said && !a.text.trim().is_empty()) else {
            return Ok(());
        };
        if self.voice.is_some() {
            self.counters.replaced.inc();
            self.cut(event.t_us);
        }
        self.next = Some(advice.clone());
        self.advance(event.t_us);
        Ok(())
    }

    fn tick(&mut self, now: Micros) -> Result<(), SinkError> {
        self.watch(now);
        self.advance(now);
        Ok(())
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        self.next = None;
        self.cut(Micros::ZERO);
        self.speaking.end(Micros::ZERO);
        for child in &mut self.ending {
            _ = child.try_wait();
        }
    }
}

/// The text as it is handed over: in one line, bounded, and never with a dash in front, which a program would take for an option.
fn spoken(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('\0', "");
    let end = (0..=TEXT_BYTES_MAX).rev().find(|i| line.is_char_boundary(*i)).unwrap_or(0);
    line.truncate(end);
    if line.starts_with('-') {
        line.insert(0, ' ');
    }
    line
}

fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // gone already is as good
        _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::super::testing::{decision, event};
    use super::*;

    struct Bench {
        speech: Speech,
        speaking: Arc<Speaking>,
        counters: Counters,
        now_ms: u64,
        dir: tempfile::TempDir,
    }

    impl Bench {
        /// A command with `DIR` for a directory of its own.
        fn new(command: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().display().to_string();
            let options = Options {
                command: command.iter().map(|a| a.replace("DIR", &at)).collect(),
                timeout: Micros::from_ms(1000),
                tail: Micros::from_ms(300),
                languages: vec![("zh".into(), "cmn".into())],
            };
            let (speaking, counters) = (Arc::new(Speaking::new()), Counters::new(&Registry::new()));
            let speech = Speech::new(options, Arc::clone(&speaking), counters.clone());
            Bench { speech, speaking, counters, now_ms: 0, dir }
        }

        fn shell(script: &str) -> Self {
            Bench::new(&["/bin/sh", "-c", script])
        }

        fn say(&mut self, text: &str) {
            let advised = event(0, self.now_ms, decision(DecisionState::Enter, "desk_3", 0.9, text));
            self.speech.emit(&advised).unwrap();
        }

        fn tick(&mut self) {
            self.speech.tick(Micros::from_ms(self.now_ms)).unwrap();
        }

        /// Ticks, without time passing for the sink, until `done`; the processes are real and take their time.
        fn until(&mut self, what: &str, mut done: impl FnMut(&mut Bench) -> bool) {
            for _ in 0..4000 {
                self.tick();
                if done(self) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("never: {what}");
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        fn counts(&self) -> [u64; 4] {
            let Counters { spoken, replaced, overrun, failed } = &self.counters;
            [spoken, replaced, overrun, failed].map(|c| c.get())
        }
    }

    fn is_gone(pid_file: &Path) -> bool {
        let pid: i32 = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        // a process that is dead and not reaped is gone, too
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn advice_is_spoken_and_microphones_are_muted_until_the_tail_is_over() {
        let mut bench = Bench::shell("cat > DIR/said");
        bench.say("Please go to \"desk\" 3 & $(touch no); 'now'");
        assert!(bench.speaking.is_on(Micros::from_ms(0)));
        bench.until("it ends", |b| b.speech.voice.is_none());
        assert_eq!(fs::read_to_string(bench.file("said")).unwrap(), "Please go to \"desk\" 3 & $(touch no); 'now'\n");
        assert_eq!([299, 300].map(|ms| bench.speaking.is_on(Micros::from_ms(ms))), [true, false]);
        assert_eq!(bench.counts(), [1, 0, 0, 0]);
    }

    #[test]
    fn text_and_language_are_arguments_and_no_code() {
        let mut bench =
            Bench::new(&["/bin/sh", "-c", "printf '%s|' \"$@\" > DIR/said", "sh", "-v", "{lang}", "{text}"]);
        bench.say("--version; \"x\"\n$HOME\0");
        bench.until("it ends", |b| b.speech.voice.is_none());
        assert_eq!(fs::read_to_string(bench.file("said")).unwrap(), "-v|en| --version; \"x\" $HOME|");
        let mut advice = Advice { id: "x".into(), lang: "zh".into(), text: "x".into() };
        let lang = |b: &Bench, a: &Advice| b.speech.command(a).0.get_args().nth(4).unwrap().to_owned();
        assert_eq!(lang(&bench, &advice), "cmn");
        advice.lang = "fr".into();
        assert_eq!(lang(&bench, &advice), "fr");
    }

    #[test]
    fn only_what_a_visitor_is_told_is_spoken() {
        let mut bench = Bench::shell("cat > DIR/said");
        for kind in [EventKind::Start, decision(DecisionState::Exit, "desk_3", 0.2, "Bye."), EventKind::End] {
            bench.speech.emit(&event(0, 0, kind)).unwrap();
        }
        bench.say("  ");
        assert_eq!(bench.counts(), [0; 4]);
        for state in [DecisionState::Ask, DecisionState::Escalate] {
            let mut bench = Bench::shell("cat > DIR/said");
            bench.speech.emit(&event(0, 0, decision(state, "desk_3", 0.5, "3 or 8?"))).unwrap();
            bench.until("it ends", |b| b.speech.voice.is_none());
            assert_eq!(bench.counts(), [1, 0, 0, 0]);
        }
    }

    #[test]
    fn what_takes_too_long_is_ended_with_everything_it_has_started() {
        let mut bench =
            Bench::shell("sleep 600 & echo $! > DIR/child; echo $$ > DIR/parent; mv DIR/parent DIR/ready; wait");
        bench.say("a long story");
        bench.until("it has started", |b| b.file("ready").exists());
        bench.now_ms = 999;
        bench.tick();
        assert_eq!(bench.counts(), [1, 0, 0, 0]);
        bench.now_ms = 1000;
        bench.tick();
        assert_eq!(bench.counts(), [1, 0, 1, 0]);
        assert_eq!([1299, 1300].map(|ms| bench.speaking.is_on(Micros::from_ms(ms))), [true, false]);
        bench.until("both are gone", |b| is_gone(&b.file("ready")) && is_gone(&b.file("child")));
    }

    #[test]
    fn newer_advice_replaces_what_is_being_said() {
        let mut bench = Bench::shell("read line; echo $$ > DIR/pid.$line; mv DIR/pid.$line DIR/$line; exec sleep 600");
        bench.say("one");
        bench.until("one speaks", |b| b.file("one").exists());
        bench.say("two");
        bench.say("three");
        bench.until("three speaks", |b| b.file("three").exists());
        assert!(is_gone(&bench.file("one")) && !is_gone(&bench.file("three")));
        assert!(bench.speaking.is_on(Micros::from_ms(u64::MAX / 2000)));
        let three = bench.file("three");
        drop(bench.speech);
        assert!(!bench.speaking.is_on(Micros::ZERO));
        (0..1000)
            .find(|_| {
                is_gone(&three) || {
                    std::thread::sleep(Duration::from_millis(5));
                    false
                }
            })
            .expect("left behind");
    }

    #[test]
    fn a_program_that_is_missing_or_fails_costs_nothing_but_its_voice() {
        let mut bench = Bench::new(&["no-such-program"]);
        bench.say("one");
        bench.say("two");
        assert_eq!((bench.counts(), bench.speaking.is_on(Micros::ZERO)), ([0, 0, 0, 2], false));
        assert!(
            bench.speech.last_failure.ends_with("install it, or give its whole path"),
            "{}",
            bench.speech.last_failure
        );
        let mut bench = Bench::shell("echo no card >&2; echo >&2; exit 3");
        bench.say("one");
        bench.until("it ends", |b| b.speech.voice.is_none());
        assert_eq!(bench.counts(), [1, 0, 0, 1]);
        assert_eq!(bench.speech.last_failure, "/bin/sh ended (exit status: 3); it said: no card");
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_a_program_that_does_not_read_stops_nobody() {
        assert_eq!(spoken(&"é".repeat(3000)).len(), TEXT_BYTES_MAX);
        assert_eq!(spoken("short"), "short");
        let mut bench = Bench::shell("exec sleep 600");
        bench.say(&"long ".repeat(2000));
        assert_eq!(bench.counts(), [1, 0, 0, 0]);
    }
}
