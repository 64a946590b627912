//! What Home Assistant is told: one retained message an entity, so that the device appears there by itself.
//!
//! The format is that of single components, `<prefix>/<component>/<device>/<entity>/config`, with the long keys of
//! <https://www.home-assistant.io/integrations/mqtt/> and of the page of each component, which every version since 2022.12 (text entities)
//! reads. All values come from the topic `state`; commands go to `cmd/...` as the JSON that [`super::command`] reads.

use serde_json::{Map, Value, json};

use super::topics::Topics;

/// Longest state that Home Assistant keeps.
const HA_STATE_CHARS_MAX: usize = 255;

/// One input of the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name of the modality.
    pub modality: String,
    /// Name of the source that feeds it.
    pub source: String,
}

/// What there is to be told of.
#[derive(Clone, Debug)]
pub struct Device<'a> {
    /// First level of the topics that Home Assistant reads.
    pub prefix: &'a str,
    /// The device's topics.
    pub topics: &'a Topics,
    /// Its inputs, in the bundle's order.
    pub inputs: &'a [Input],
    /// `name@version` of the bundle.
    pub bundle: &'a str,
    /// The board the program was built for.
    pub board: &'a str,
    /// Version of the program.
    pub version: &'a str,
    /// Whether commands are taken.
    pub commands: bool,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Value,
}

/// Every entity of `device`.
#[must_use]
pub fn entities(device: &Device<'_>) -> Vec<Entity> {
    let state = device.topics.state();
    let mut all = vec![
        device.entity("sensor", "advice", "Advice", json!({
            "state_topic": state,
            "value_template": format!("{{{{ (value_json.advice.text if value_json.advice else '')[:{HA_STATE_CHARS_MAX}] }}}}"),
            "json_attributes_topic": state,
            "icon": "mdi:message-text",
        })),
        device.entity("sensor", "class", "Class", json!({
            "state_topic": state,
            "value_template": "{{ value_json.class if value_json.class else 'none' }}",
            "icon": "mdi:tag",
        })),
        device.entity("sensor", "confidence", "Confidence", json!({
            "state_topic": state,
            "value_template": "{{ (value_json.p * 100) | round(1) if value_json.p is not none else 0 }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "icon": "mdi:percent",
        })),
        device.entity("sensor", "events", "Events", json!({
            "state_topic": state,
            "value_template": "{{ value_json.events }}",
            "state_class": "total_increasing",
            "entity_category": "diagnostic",
            "icon": "mdi:counter",
        })),
        device.entity("binary_sensor", "visit", "Visit", json!({
            "state_topic": state,
            "value_template": "{{ 'ON' if value_json.visit else 'OFF' }}",
            "device_class": "occupancy",
        })),
    ];
    for Input { modality, .. } in device.inputs {
        all.push(device.entity(
            "sensor",
            &format!("{modality}_state"),
            &format!("{modality} state"),
            json!({
                "state_topic": state,
                "value_template": format!("{{{{ value_json.modalities['{modality}'].state }}}}"),
                "device_class": "enum",
                "options": ["ok", "stale", "absent", "failed"],
                "entity_category": "diagnostic",
            }),
        ));
        all.push(device.entity("binary_sensor", &format!("{modality}_problem"), &format!("{modality} problem"), json!({
            "state_topic": state,
            "value_template": format!("{{{{ 'ON' if value_json.modalities['{modality}'].state == 'failed' else 'OFF' }}}}"),
            "device_class": "problem",
            "entity_category": "diagnostic",
        })));
    }
    if device.commands {
        all.extend(device.controls(&state));
    }
    all
}

impl Device<'_> {
    /// What can be asked of the device.
    fn controls(&self, state: &str) -> Vec<Entity> {
        let mut all = vec![
            self.entity(
                "text",
                "request",
                "Request",
                json!({
                    "command_topic": self.topics.command("text"),
                    "command_template": "{{ {'text': value} | to_json }}",
                    "min": 1,
                    "max": HA_STATE_CHARS_MAX,
                    "icon": "mdi:keyboard",
                }),
            ),
            self.entity(
                "number",
                "enter_threshold",
                "Enter threshold",
                json!({
                    "command_topic": self.topics.command("thresholds"),
                    "command_template": "{{ {'enter': value} | to_json }}",
                    "state_topic": state,
                    "value_template": "{{ value_json.thresholds.enter }}",
                    "min": 0.51,
                    "max": 0.99,
                    "step": 0.01,
                    "mode": "box",
                    "entity_category": "config",
                    "icon": "mdi:tune",
                }),
            ),
        ];
        for (i, Input { source, .. }) in self.inputs.iter().enumerate() {
            // a source that feeds two modalities is muted once
            if self.inputs[..i].iter().any(|other| other.source == *source) {
                continue;
            }
            let payload = |muted: bool| json!({ "source": source, "muted": muted }).to_string();
            all.push(self.entity(
                "switch",
                &format!("{source}_mute"),
                &format!("{source} mute"),
                json!({
                    "command_topic": self.topics.command("mute"),
                    "payload_on": payload(true),
                    "payload_off": payload(false),
                    "state_topic": state,
                    "value_template": format!("{{{{ 'ON' if '{source}' in value_json.muted else 'OFF' }}}}"),
                    "state_on": "ON",
                    "state_off": "OFF",
                    "entity_category": "config",
                    "icon": "mdi:volume-off",
                }),
            ));
        }
        all
    }

    /// One entity: what is its own, and what all have.
    fn entity(&self, component: &str, id: &str, name: &str, own: Value) -> Entity {
        let device = self.topics.id();
        let mut payload = Map::new();
        payload.insert("name".into(), json!(name));
        payload.insert("unique_id".into(), json!(format!("{device}__{id}")));
        if let Value::Object(own) = own {
            payload.extend(own);
        }
        payload.insert("qos".into(), json!(1));
        payload.insert("availability_topic".into(), json!(self.topics.availability()));
        payload.insert("payload_available".into(), json!(super::ONLINE));
        payload.insert("payload_not_available".into(), json!(super::OFFLINE));
        payload.insert(
            "device".into(),
            json!({
                "identifiers": [device],
                "name": self.topics.device(),
                "manufacturer": "Attendant",
                "model": self.board,
                "sw_version": format!("{} with {}", self.version, self.bundle),
                "suggested_area": self.topics.site(),
            }),
        );
        payload.insert("origin".into(), json!({ "name": "attendant", "sw_version": self.version }));
        let topic = format!("{}/{component}/{device}/{id}/config", self.prefix);
        Entity { topic, payload: Value::Object(payload) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    fn kiosk(commands: bool) -> Vec<Entity> {
        let input = |modality: &str, source: &str| Input { modality: modality.into(), source: source.into() };
        entities(&Device {
            prefix: "homeassistant",
            topics: &Topics::new("hall", "kiosk-7"),
            inputs: &[input("card", "camera"), input("speech", "mic"), input("request", "text")],
            bundle: "kiosk@1.0.0",
            board: "pi5",
            version: "0.1.0",
            commands,
        })
    }

    /// Keys of every MQTT entity, and of its component, as Home Assistant documents them; required ones with an exclamation mark.
    const KEYS: &[(&str, &str)] = &[
        (
            "",
            "name unique_id! qos availability_topic payload_available payload_not_available device! origin icon entity_category \
             json_attributes_topic value_template state_topic",
        ),
        ("sensor", "state_topic! unit_of_measurement state_class device_class options"),
        ("binary_sensor", "state_topic! device_class"),
        ("switch", "command_topic! payload_on payload_off state_on state_off"),
        ("number", "command_topic! command_template min max step mode"),
        ("text", "command_topic! command_template min max"),
    ];

    #[test]
    fn every_payload_has_the_documented_keys_of_its_component() {
        let all = kiosk(true);
        for entity in &all {
            let [prefix, component, _, _, last] = *entity.topic.split('/').collect::<Vec<_>>() else {
                panic!("{}", entity.topic)
            };
            assert_eq!((prefix, last), ("homeassistant", "config"));
            let own = KEYS.iter().find(|(c, _)| *c == component).unwrap_or_else(|| panic!("{component}"));
            let known: Vec<&str> = KEYS[0].1.split(' ').chain(own.1.split(' ')).collect();
            let Value::Object(payload) = &entity.payload else { panic!("{}", entity.payload) };
            for key in payload.keys() {
                let is_known = known.iter().any(|k| k.trim_end_matches('!') == key);
                assert!(is_known, "{}: {key} is no key of a {component}", entity.topic);
            }
            for key in known.iter().filter_map(|k| k.strip_suffix('!')) {
                assert!(payload.contains_key(key), "{}: {key} is missing", entity.topic);
            }
            let is_legal = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            assert!(entity.topic.split('/').all(is_legal), "{}", entity.topic);
            let is_enum = payload.get("device_class") == Some(&json!("enum"));
            assert_eq!(is_enum, payload.contains_key("options"), "{}", entity.topic);
        }
        let ids: BTreeSet<&str> = all.iter().map(|e| e.payload["unique_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), all.len(), "unique ids are unique");
        let topics: BTreeSet<&str> = all.iter().map(|e| e.topic.as_str()).collect();
        assert_eq!(topics.len(), all.len());
    }

    /// The committed file is what the program says; `ATTENDANT_UPDATE_SNAPSHOTS=1 cargo test` writes it again.
    #[test]
    fn the_payloads_are_those_that_were_reviewed() {
        let mut text = String::new();
        for entity in kiosk(true) {
            writeln!(text, "{}\n{:#}", entity.topic, entity.payload).unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/mqtt_discovery.txt");
        if std::env::var_os("ATTENDANT_UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap(), "tests/snapshots/mqtt_discovery.txt differs");
    }

    #[test]
    fn without_commands_nothing_can_be_set() {
        let components: BTreeSet<String> =
            kiosk(false).iter().map(|e| e.topic.split('/').nth(1).unwrap().to_owned()).collect();
        assert_eq!(components.into_iter().collect::<Vec<_>>(), ["binary_sensor", "sensor"]);
    }
}
