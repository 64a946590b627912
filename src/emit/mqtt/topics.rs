//! Names of the topics: `attendant/{site}/{device}/...`, and nothing else.

/// First level of every topic.
pub const ROOT: &str = "attendant";

/// What commands are called; the last level of their topics.
pub const COMMANDS: &[&str] = &["text", "choice", "mute", "thresholds", "language", "reload"];

/// The topics of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    site: String,
    device: String,
}

impl Topics {
    /// The names are those of a checked configuration, each one level.
    #[must_use]
    pub fn new(site: &str, device: &str) -> Self {
        Topics { site: site.to_owned(), device: device.to_owned() }
    }

    /// The place.
    #[must_use]
    pub fn site(&self) -> &str {
        &self.site
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    fn below(&self, last: &str) -> String {
        format!("{ROOT}/{}/{}/{last}", self.site, self.device)
    }

    /// Every event, its JSON line.
    #[must_use]
    pub fn events(&self) -> String {
        self.below("events")
    }

    /// How things are, retained.
    #[must_use]
    pub fn state(&self) -> String {
        self.below("state")
    }

    /// `online` or `offline`, retained.
    #[must_use]
    pub fn availability(&self) -> String {
        self.below("availability")
    }

    /// One command.
    #[must_use]
    pub fn command(&self, name: &str) -> String {
        self.below(&format!("cmd/{name}"))
    }

    /// Every command, also those that there are not: they are answered too.
    #[must_use]
    pub fn commands(&self) -> String {
        self.below("cmd/+")
    }

    /// What became of a command.
    #[must_use]
    pub fn result(&self) -> String {
        self.below("cmd/result")
    }

    /// Name of the command that a topic stands for; None for answers and topics of others.
    #[must_use]
    pub fn command_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let rest = topic.strip_prefix(ROOT)?.strip_prefix('/')?.strip_prefix(&*self.site)?.strip_prefix('/')?;
        let name = rest.strip_prefix(&*self.device)?.strip_prefix("/cmd/")?;
        (name != "result" && !name.contains('/')).then_some(name)
    }

    /// What tells this device from every other one: names have no `__`, so that two pairs never give the same.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{ROOT}__{}__{}", self.site, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_lie_below_the_device() {
        let topics = Topics::new("hall", "kiosk-7");
        let all = [topics.events(), topics.state(), topics.availability(), topics.commands(), topics.result()];
        assert_eq!(
            all,
            [
                "attendant/hall/kiosk-7/events",
                "attendant/hall/kiosk-7/state",
                "attendant/hall/kiosk-7/availability",
                "attendant/hall/kiosk-7/cmd/+",
                "attendant/hall/kiosk-7/cmd/result"
            ]
        );
    }

    #[test]
    fn a_command_is_told_from_what_is_none() {
        let topics = Topics::new("hall", "kiosk-7");
        let rows = [
            ("attendant/hall/kiosk-7/cmd/text", Some("text")),
            ("attendant/hall/kiosk-7/cmd/sing", Some("sing")),
            ("attendant/hall/kiosk-7/cmd/result", None),
            ("attendant/hall/kiosk-7/cmd/text/more", None),
            ("attendant/hall/kiosk-77/cmd/text", None),
            ("attendant/hall/kiosk/cmd/text", None),
            ("attendant/hallo/kiosk-7/cmd/text", None),
            ("attendant/hall/kiosk-7/events", None),
            ("x", None),
        ];
        for (topic, expected) in rows {
            assert_eq!(topics.command_of(topic), expected, "{topic}");
        }
        for name in COMMANDS {
            assert_eq!(topics.command_of(&topics.command(name)), Some(*name));
        }
    }
}
