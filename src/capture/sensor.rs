//! Sensors: readings from a file, and a driver for temperature sensors of the LM75 family on any `embedded-hal` I2C bus.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use embedded_hal::i2c::{Error as _, ErrorKind as I2cErrorKind, I2c};
use serde::Deserialize;

use crate::capture::{CaptureError, ErrorKind, Sensor, open_file};
use crate::signal::Reading;
use crate::time::{Clock, Micros};

/// Longer lines are damage.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// More than any sensor.
const MAX_CHANNELS: usize = 4096;

/// Readings from a text file, as fast as it is read; the supervisor paces by their times.
///
/// Either CSV, first column the time in seconds (`t_s`), one line of names at the top allowed:
/// ```csv
/// t_s,distance_m,lux
/// 0.0,1.25,300
/// 0.1,,310
/// ```
/// or JSON lines: `{"t_s":0.1,"values":[null,310]}`. An empty field, `nan` and null stand for a channel that could not be read.
pub struct CsvSensor<R = BufReader<File>> {
    name: String,
    reader: R,
    line: Vec<u8>,
    line_no: u64,
    /// Of the first reading; the others must have as many.
    channels: Option<usize>,
    last: Micros,
}

impl CsvSensor {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `Fatal` if there is no such file.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Ok(Self::from_reader(&path.display().to_string(), BufReader::new(open_file(path)?)))
    }
}

impl<R: BufRead> CsvSensor<R> {
    /// Reads lines from `reader`; `name` is what errors call it.
    pub fn from_reader(name: &str, reader: R) -> Self {
        CsvSensor { name: name.into(), reader, line: Vec::new(), line_no: 0, channels: None, last: Micros::ZERO }
    }

    /// The next line that is not blank; false at the end.
    fn next_line(&mut self) -> Result<bool, String> {
        loop {
            self.line.clear();
            let read = (&mut self.reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut self.line)
                .map_err(|e| format!("cannot be read: {e}"))?;
            if read == 0 {
                return Ok(false);
            }
            self.line_no += 1;
            if read as u64 == MAX_LINE_BYTES && self.line.last() != Some(&b'\n') {
                return Err(format!("has more than {MAX_LINE_BYTES} bytes, expected one reading"));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn next_reading(&mut self, into: &mut Reading) -> Result<bool, String> {
        loop {
            if !self.next_line()? {
                return Ok(false);
            }
            let line = std::str::from_utf8(&self.line).map_err(|_| "is no UTF-8")?.trim();
            into.values.clear();
            let t_s = if line.starts_with('{') {
                parse_json(line, &mut into.values)?
            } else if self.line_no == 1 && is_header(line) {
                continue;
            } else {
                parse_csv(line, &mut into.values)?
            };
            if !(0.0..1e12).contains(&t_s) {
                return Err(format!("has the time {t_s} s, expected 0 or later"));
            }
            into.t = Micros((t_s * 1e6).round() as u64);
            if into.t < self.last {
                return Err(format!("has the time {}, expected {} or later", into.t, self.last));
            }
            let channels = *self.channels.get_or_insert(into.values.len());
            if into.values.len() != channels {
                return Err(format!("has {} values, expected {channels} as in the first reading", into.values.len()));
            }
            self.last = into.t;
            return Ok(true);
        }
    }
}

/// Names, not numbers: the first column is called something.
fn is_header(line: &str) -> bool {
    line.split(',').next().is_some_and(|first| first.trim().parse::<f64>().is_err())
}

fn parse_csv(line: &str, values: &mut Vec<f32>) -> Result<f64, String> {
    let mut fields = line.split(',').map(str::trim);
    let number = |field: &str| field.parse::<f64>().map_err(|_| format!("has {field:?}, expected a number"));
    let t_s = number(fields.next().unwrap_or_default())?;
    for field in fields {
        push(values, if field.is_empty() { f32::NAN } else { number(field)? as f32 })?;
    }
    Ok(t_s)
}

fn parse_json(line: &str, values: &mut Vec<f32>) -> Result<f64, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        t_s: f64,
        values: Vec<Option<f32>>,
    }
    let line: Line = serde_json::from_str(line).map_err(|e| format!("is no {{\"t_s\":..,\"values\":[..]}}: {e}"))?;
    for value in line.values {
        push(values, value.unwrap_or(f32::NAN))?;
    }
    Ok(line.t_s)
}

fn push(values: &mut Vec<f32>, value: f32) -> Result<(), String> {
    if values.len() == MAX_CHANNELS {
        return Err(format!("has more than {MAX_CHANNELS} values"));
    }
    values.push(value);
    Ok(())
}

impl<R: BufRead + Send> Sensor for CsvSensor<R> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        match self.next_reading(into) {
            Ok(true) => Ok(()),
            Ok(false) if self.channels.is_none() => Err(CaptureError::fatal(&*self.name, "holds no reading")),
            Ok(false) => Err(CaptureError::end(&*self.name)),
            Err(message) => Err(CaptureError::fatal(&*self.name, format!("line {} {message}", self.line_no))),
        }
    }
}

/// The address with all address pins low.
pub const LM75_ADDRESS: u8 = 0x48;

/// Temperature register of the family: LM75, LM75A/B, TMP75, ADT75, MCP9800.
const LM75_TEMPERATURE: u8 = 0x00;
/// The four low bits are always zero, whatever the resolution of the part.
const LM75_UNUSED_BITS: u16 = 0x000f;
/// What the parts can measure, in degrees Celsius.
const LM75_RANGE_C: std::ops::RangeInclusive<f32> = -55.0..=150.0;

/// A temperature sensor of the LM75 family: one channel, degrees Celsius.
pub struct Lm75<I> {
    name: String,
    bus: I,
    address: u8,
    clock: Arc<dyn Clock>,
    period: Micros,
    due: Micros,
}

impl<I: I2c> Lm75<I> {
    /// A sensor at `address` (0x48 to 0x4f by its pins), read every `period`; the first reading is due at once.
    ///
    /// # Errors
    /// `Fatal` for an address outside of that range.
    pub fn new(name: &str, bus: I, address: u8, period: Micros, clock: Arc<dyn Clock>) -> Result<Self, CaptureError> {
        if !(0x48..=0x4f).contains(&address) {
            return Err(CaptureError::fatal(name, format!("the I2C address is {address:#04x}, expected 0x48 to 0x4f")));
        }
        let due = clock.now();
        Ok(Lm75 { name: name.into(), bus, address, clock, period, due })
    }

    fn fail(&self, kind: ErrorKind, message: String) -> CaptureError {
        CaptureError::new(kind, &*self.name, format!("I2C address {:#04x}: {message}", self.address))
    }
}

impl<I: I2c + Send> Sensor for Lm75<I> {
    fn read(&mut self, into: &mut Reading) -> Result<(), CaptureError> {
        self.clock.sleep_until(self.due);
        let now = self.clock.now();
        // a reader that fell behind skips readings instead of making them up in a row
        let next = self.due + self.period;
        self.due = if next > now { next } else { now + self.period };
        let mut register = [0; 2];
        self.bus.write_read(self.address, &[LM75_TEMPERATURE], &mut register).map_err(|e| match e.kind() {
            I2cErrorKind::ArbitrationLoss | I2cErrorKind::Overrun => self.fail(ErrorKind::Retry, format!("{e:?}")),
            I2cErrorKind::NoAcknowledge(_) => {
                self.fail(ErrorKind::Reopen, "no answer; check the wiring and the address".into())
            }
            _ => self.fail(ErrorKind::Reopen, format!("{e:?}")),
        })?;
        let raw = u16::from_be_bytes(register);
        // two's complement, 1/256 degree per bit (NXP LM75B data sheet, 7.4.3)
        let celsius = f32::from(raw.cast_signed()) / 256.0;
        if raw & LM75_UNUSED_BITS != 0 || !LM75_RANGE_C.contains(&celsius) {
            let message = format!("register 0 reads {raw:#06x}, which no LM75 can show; check the bus and the part");
            return Err(self.fail(ErrorKind::Reopen, message));
        }
        into.t = now;
        into.values.clear();
        into.values.push(celsius);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::i2c::{ErrorType, NoAcknowledgeSource, Operation};

    use super::*;
    use crate::time::VirtualClock;

    /// Every reading as text, and how the file ended.
    fn play(file: &[u8]) -> (Vec<String>, CaptureError) {
        let mut sensor = CsvSensor::from_reader("a.csv", file);
        let mut reading = Reading::default();
        let mut out = Vec::new();
        loop {
            match sensor.read(&mut reading) {
                Ok(()) => out.push(format!("{} {:?}", reading.t, reading.values)),
                Err(e) => return (out, e),
            }
        }
    }

    #[test]
    fn csv_and_json_lines_give_the_same_readings() {
        let expect = ["0.000 s [1.25, 300.0]", "0.100 s [NaN, 310.0]"];
        let files: &[(&str, &[u8])] = &[
            ("header", b"t_s,distance_m,lux\n0,1.25,300\n0.1,,310\n"),
            ("bare, Windows, blanks", b"0, 1.25, 300\r\n\r\n0.1, nan, 310"),
            ("json", b"{\"t_s\":0,\"values\":[1.25,300]}\n{\"t_s\":0.1,\"values\":[null,310]}\n"),
        ];
        for (name, file) in files {
            let (got, end) = play(file);
            assert_eq!((got.as_slice(), end.kind), (&expect.map(String::from)[..], ErrorKind::End), "{name}: {end}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let long = vec![b'1'; 70_000];
        let cases: &[(&str, &[u8], &str)] = &[
            ("nothing", b"", "a.csv: holds no reading"),
            ("only names", b"t_s,a\n", "holds no reading"),
            ("a word", b"0,1\n1,x\n", "line 2 has \"x\", expected a number"),
            ("no time", b"0,1\n,2\n", "line 2 has \"\", expected a number"),
            ("back in time", b"1,1\n0.5,1\n", "line 2 has the time 0.500 s, expected 1.000 s or later"),
            ("before zero", b"-1,1\n", "line 1 has the time -1 s, expected 0 or later"),
            ("nan time", b"0,1\nnan,1\n", "has the time NaN s"),
            ("other number of values", b"0,1,2\n1,1\n", "line 2 has 1 values, expected 2"),
            ("no JSON", b"{\"t_s\":0,\"values\":[1}\n", "line 1 is no {\"t_s\":..,\"values\":[..]}"),
            ("no UTF-8", b"0,\xff\n", "line 1 is no UTF-8"),
            ("too long", &long, "line 1 has more than 65536 bytes"),
        ];
        for (name, file, expect) in cases {
            let (_, end) = play(file);
            assert!(end.kind == ErrorKind::Fatal && end.to_string().contains(expect), "{name}: {end}");
        }
    }

    #[test]
    fn damage_ends_in_an_error_or_in_readings_but_never_in_a_panic() {
        let good = b"t_s,a,b\n0,1e3,-2.5\n{\"t_s\":1.5,\"values\":[null,2]}\n";
        for at in 0..good.len() {
            play(&good[..at]);
            for flip in [0x01, 0x04, 0x20, 0x80, 0xff] {
                let mut bytes = good.to_vec();
                bytes[at] ^= flip;
                assert!(play(&bytes).0.len() <= 3);
            }
        }
    }

    /// A bus with one device that answers each transaction with the next of its script.
    struct FakeBus(Vec<Result<u16, I2cErrorKind>>);

    impl ErrorType for FakeBus {
        type Error = I2cErrorKind;
    }

    impl I2c for FakeBus {
        fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), I2cErrorKind> {
            assert_eq!(address, 0x48);
            let [Operation::Write(register), Operation::Read(into)] = operations else {
                panic!("expected a write and a read, got {operations:?}");
            };
            assert_eq!(*register, [LM75_TEMPERATURE]);
            into.copy_from_slice(&self.0.remove(0)?.to_be_bytes());
            Ok(())
        }
    }

    fn lm75(script: Vec<Result<u16, I2cErrorKind>>) -> (Lm75<FakeBus>, Arc<VirtualClock>) {
        let clock = Arc::new(VirtualClock::default());
        let period = Micros::from_ms(500);
        (Lm75::new("temperature", FakeBus(script), 0x48, period, Arc::clone(&clock) as _).unwrap(), clock)
    }

    #[test]
    fn an_lm75_reads_degrees_at_its_period() {
        // values of the data sheet's table
        let cases =
            [(0x7d00, 125.0), (0x1900, 25.0), (0x0020, 0.125), (0xffe0, -0.125), (0xe700, -25.0), (0xc900, -55.0)];
        let (mut sensor, _) = lm75(cases.iter().map(|c| Ok(c.0)).collect());
        let mut reading = Reading::default();
        for (i, (raw, celsius)) in cases.iter().enumerate() {
            sensor.read(&mut reading).unwrap();
            assert_eq!((reading.t, &reading.values), (Micros::from_ms(500 * i as u64), &vec![*celsius]), "{raw:#06x}");
        }
    }

    #[test]
    fn a_reader_that_fell_behind_skips_readings() {
        let (mut sensor, clock) = lm75(vec![Ok(0); 3]);
        let mut reading = Reading::default();
        sensor.read(&mut reading).unwrap();
        clock.sleep_until(Micros::from_ms(5000));
        sensor.read(&mut reading).unwrap();
        assert_eq!(reading.t, Micros::from_ms(5000));
        sensor.read(&mut reading).unwrap();
        assert_eq!(reading.t, Micros::from_ms(5500));
    }

    #[test]
    fn bus_errors_say_what_to_do() {
        let cases = [
            (Err(I2cErrorKind::ArbitrationLoss), ErrorKind::Retry, "ArbitrationLoss"),
            (
                Err(I2cErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)),
                ErrorKind::Reopen,
                "no answer; check the wiring",
            ),
            (Err(I2cErrorKind::Bus), ErrorKind::Reopen, "Bus"),
            (Ok(0xffff), ErrorKind::Reopen, "register 0 reads 0xffff"), // a bus without pull-down
            (Ok(0x8000), ErrorKind::Reopen, "register 0 reads 0x8000"),
        ];
        for (answer, kind, message) in cases {
            let (mut sensor, _) = lm75(vec![answer]);
            let e = sensor.read(&mut Reading::default()).unwrap_err();
            assert!(e.kind == kind && e.to_string().contains(message), "{answer:?}: {e}");
        }
        let error = Lm75::new("t", FakeBus(vec![]), 0x50, Micros(1), Arc::new(VirtualClock::default())).err().unwrap();
        assert!(error.to_string().contains("the I2C address is 0x50"), "{error}");
    }
}
