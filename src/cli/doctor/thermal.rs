//! Heat against the trip points of every zone and the board's budget, and whether the supply's voltage holds.

use attendant::board::BOARD;

use super::root::Root;
use super::{Check, Known, Status};

const TOPIC: &str = "thermal";

/// What no silicon that runs has: a sensor that is broken or switched off.
const POSSIBLE_C: std::ops::Range<f64> = -40.0..150.0;

/// Distance to the point where the kernel switches off, below which that is about to happen.
const MARGIN_C: f64 = 5.0;

/// Zones, power, and how often the processor has slowed itself down.
pub fn check(known: &Known) -> Vec<Check> {
    let root = &known.root;
    let mut checks = zones(root);
    checks.push(power(root));
    checks.extend(throttled(root));
    checks
}

struct Zone {
    name: String,
    celsius: Option<f64>,
    /// Type and temperature.
    trips: Vec<(String, f64)>,
}

fn zones(root: &Root) -> Vec<Check> {
    let zones: Vec<Zone> =
        root.names("/sys/class/thermal", "thermal_zone").iter().map(|zone| read(root, zone)).collect();
    if zones.is_empty() {
        return vec![Check::new(
            TOPIC,
            "zones",
            Status::Unknown,
            "no thermal zone: the kernel does not tell the temperature",
        )];
    }
    zones.iter().map(judge).collect()
}

fn read(root: &Root, zone: &str) -> Zone {
    let folder = format!("/sys/class/thermal/{zone}");
    let name = root.text(format!("{folder}/type")).unwrap_or_else(|| zone.to_owned());
    let milli = |path: String| root.number(path).map(|m| m / 1000.0);
    let trip = |i: usize| {
        let kind = root.text(format!("{folder}/trip_point_{i}_type"))?;
        Some((kind, milli(format!("{folder}/trip_point_{i}_temp"))?))
    };
    // disabled points read as 0 or less
    let trips = (0..).map_while(trip).filter(|(_, c)| *c > 0.0).collect();
    Zone { name, celsius: milli(format!("{folder}/temp")).filter(|c| POSSIBLE_C.contains(c)), trips }
}

fn judge(zone: &Zone) -> Check {
    let Some(celsius) = zone.celsius else {
        return Check::new(TOPIC, &zone.name, Status::Unknown, "its sensor gives no temperature that can be");
    };
    let lowest = |kind: &str| zone.trips.iter().filter(|t| t.0 == kind).map(|t| t.1).reduce(f64::min);
    let (critical, hot, passive) = (lowest("critical"), lowest("hot"), lowest("passive"));
    let points: Vec<String> = [("slows down", passive), ("hot", hot), ("switches off", critical)]
        .iter()
        .filter_map(|(what, at)| at.map(|at| format!("{what} from {at:.0} C")))
        .collect();
    let points = if points.is_empty() { "no trip points".to_owned() } else { points.join(", ") };
    let (budget, text) = (f64::from(BOARD.budget.celsius_max), format!("{celsius:.0} C; {points}"));
    let cooling = "improve the cooling: heat sink, fan, a case with openings, no sun";
    match () {
        () if critical.is_some_and(|c| celsius >= c - MARGIN_C) || hot.is_some_and(|c| celsius >= c) => {
            Check::new(TOPIC, &zone.name, Status::Error, text).fix(cooling)
        }
        () if passive.is_some_and(|c| celsius >= c) => {
            Check::new(TOPIC, &zone.name, Status::Warning, format!("{text}; it is slowed down")).fix(cooling)
        }
        () if celsius >= budget => {
            let text = format!("{text}; from {budget:.0} C on this program halves its rates (budget.celsius_max)");
            Check::new(TOPIC, &zone.name, Status::Warning, text).fix(cooling)
        }
        () => Check::new(TOPIC, &zone.name, Status::Ok, text),
    }
}

/// Bits of a Raspberry Pi's `get_throttled`: which, what it means while it is set; 16 above it: since the start.
const PI_BITS: &[(u32, &str, Status)] = &[
    (0, "the supply's voltage is too low", Status::Error),
    (1, "its frequency is capped", Status::Warning),
    (2, "it is throttled", Status::Warning),
    (3, "it is near its temperature limit", Status::Warning),
];

const SUPPLY: &str =
    "the official power supply and a short, thick cable; fewer USB devices without supplies of their own";

fn power(root: &Root) -> Check {
    if let Some((path, text)) = pi_state(root) {
        let Ok(bits) = u32::from_str_radix(text.trim_start_matches("0x"), 16) else {
            return Check::new(TOPIC, "power", Status::Unknown, format!("{path} says {text:?}, expected hexadecimal"));
        };
        return judge_pi(bits);
    }
    let mut seen = Vec::new();
    for monitor in root.names("/sys/class/hwmon", "hwmon") {
        let folder = format!("/sys/class/hwmon/{monitor}");
        let name = root.text(format!("{folder}/name")).unwrap_or_else(|| monitor.clone());
        for file in root.names(&folder, "").iter().filter(|f| f.starts_with("in") && f.ends_with("lcrit_alarm")) {
            seen.push(format!("{name} {file}"));
            // the kernel's driver of the Pi keeps the alarm until it is read: it speaks of the time since
            if root.number(format!("{folder}/{file}")).is_some_and(|alarm| alarm > 0.0) {
                let text = format!("{name}: {file} is set: the supply's voltage is or was too low");
                return Check::new(TOPIC, "power", Status::Error, text).fix(SUPPLY);
            }
        }
        // a Jetson counts how often its supply gave too much current or too little voltage
        for file in root.names(&folder, "oc").iter().filter(|f| f.ends_with("_event_cnt")) {
            seen.push(format!("{name} {file}"));
            if let Some(count) = root.number(format!("{folder}/{file}")).filter(|n| *n > 0.0) {
                let text = format!("{name}: {file} = {count}: the supply could not deliver since the start");
                return Check::new(TOPIC, "power", Status::Warning, text).fix(SUPPLY);
            }
        }
    }
    if seen.is_empty() {
        let text = "no sensor of the supply's voltage: undervoltage would not show";
        return Check::new(TOPIC, "power", Status::Unknown, text);
    }
    Check::new(TOPIC, "power", Status::Ok, format!("no alarm of {}", seen.join(", ")))
}

/// The firmware's state of a Raspberry Pi: `soc/soc:firmware` up to the Pi 4, with an address in the names on the Pi 5.
fn pi_state(root: &Root) -> Option<(String, String)> {
    let platform = "/sys/devices/platform";
    root.names(platform, "soc").iter().find_map(|soc| {
        let folder = format!("{platform}/{soc}");
        let firmware = root.names(&folder, "soc").into_iter().find(|n| n.ends_with(":firmware"))?;
        let path = format!("{folder}/{firmware}/get_throttled");
        let text = root.text(&path)?;
        Some((path, text))
    })
}

fn judge_pi(bits: u32) -> Check {
    let (mut said, mut status) = (Vec::new(), Status::Ok);
    let mut worse = |to: Status| {
        if status != Status::Error {
            status = to;
        }
    };
    for (bit, what, how_bad) in PI_BITS {
        if bits >> bit & 1 == 1 {
            said.push(format!("{what} at this moment"));
            worse(*how_bad);
        } else if bits >> (bit + 16) & 1 == 1 {
            said.push(format!("since the start: {what}").replace(" is ", " was "));
            worse(Status::Warning);
        }
    }
    if said.is_empty() {
        return Check::new(TOPIC, "power", Status::Ok, "no undervoltage and no throttling since the start");
    }
    let is_voltage = bits & 0x1_0001 != 0;
    let fix = if is_voltage { SUPPLY } else { "improve the cooling: heat sink, fan, a case with openings, no sun" };
    Check::new(TOPIC, "power", status, format!("{} (get_throttled = {bits:#x})", said.join("; "))).fix(fix)
}

/// How often x86 cores have slowed themselves down.
fn throttled(root: &Root) -> Option<Check> {
    let cores = root.names("/sys/devices/system/cpu", "cpu");
    let count =
        |core: &String| root.number(format!("/sys/devices/system/cpu/{core}/thermal_throttle/core_throttle_count"));
    let counts: Vec<f64> = cores.iter().filter_map(count).collect();
    let most = counts.iter().copied().reduce(f64::max)?;
    let text = format!("the core that was slowed down most for heat: {most} times since the start");
    if most > 0.0 {
        return Some(Check::new(TOPIC, "throttled", Status::Warning, text).fix("improve the cooling"));
    }
    Some(Check::new(TOPIC, "throttled", Status::Ok, "no core was slowed down for heat since the start"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_judged_by_its_own_points_and_the_boards() {
        let budget = f64::from(BOARD.budget.celsius_max);
        let trips = |list: &[(&str, f64)]| list.iter().map(|(kind, c)| ((*kind).to_owned(), *c)).collect::<Vec<_>>();
        for (case, celsius, points, expected) in [
            ("cool", Some(45.0), vec![("critical", 110.0)], Status::Ok),
            ("no points, past the board's budget", Some(budget), vec![], Status::Warning),
            ("past its passive point", Some(71.0), vec![("passive", 70.0), ("critical", 110.0)], Status::Warning),
            ("about to switch off", Some(96.0), vec![("critical", 100.0)], Status::Error),
            ("hot", Some(91.0), vec![("hot", 90.0), ("critical", 110.0)], Status::Error),
            ("no reading", None, vec![], Status::Unknown),
        ] {
            let zone = Zone { name: "cpu".to_owned(), celsius, trips: trips(&points) };
            let check = judge(&zone);
            assert_eq!(check.status, expected, "{case}: {check:?}");
            assert_eq!(check.fix.is_some(), matches!(expected, Status::Warning | Status::Error), "{case}");
        }
    }

    #[test]
    fn the_bits_of_a_raspberry_pi_say_when() {
        for (bits, expected, said) in [
            (0, Status::Ok, "no undervoltage"),
            (0x1, Status::Error, "too low at this moment"),
            (0x50005, Status::Error, "too low at this moment; it is throttled at this moment"),
            (0x10000, Status::Warning, "since the start: the supply's voltage was too low"),
            (0x80008, Status::Warning, "near its temperature limit at this moment"),
            (0x2, Status::Warning, "its frequency is capped at this moment"),
        ] {
            let check = judge_pi(bits);
            assert!(check.status == expected && check.text.contains(said), "{bits:#x}: {check:?}");
        }
    }
}
