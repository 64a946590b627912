//! After warm-up, a window allocates nothing in capture, preprocess, fuse and decide. The engine's own allocations are
//! counted apart.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use attendant::bundle::Bundle;
use attendant::metrics::in_engine;
use attendant::pipeline::{Options, Pipeline};
use attendant::signal::{AudioBlock, Event, Frame, FrameSeq, Monitor, PixelFormat, Sample, SampleIdx, Utterance};
use attendant::time::{Micros, now_ns};

thread_local! {
    /// Allocations of this thread, by whether the engine was running.
    static OURS: Cell<u64> = const { Cell::new(0) };
    static ENGINE: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged; the counters are plain thread-local cells.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let counter = if in_engine() { &ENGINE } else { &OURS };
        counter.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc` above, which is the system's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a camera sends: 640 x 480, 4:2:0.
const JPEG: &[u8] = include_bytes!("../benches/peers/card.jpg");

fn frame(k: u64, format: PixelFormat) -> Frame {
    let (width, height) = (640, 480);
    let (t, seq) = (Micros::from_ms(200 * k), FrameSeq(k));
    if format == PixelFormat::Jpeg {
        return Frame { t, seq, width, height, stride: 0, format, data: JPEG.to_vec() };
    }
    // a gradient that moves: nothing to decide, everything to preprocess
    let data = (0..width * height).map(|i| ((u64::from(i) + 7 * k) % 251) as u8).collect();
    Frame { t, seq, width, height, stride: width, format, data }
}

fn block(k: u64) -> AudioBlock {
    let data = (0..1600).map(|i| 0.1 * ((i as f32) * 0.05 + k as f32).sin()).collect();
    AudioBlock { t: Micros::from_ms(100 * k), first: SampleIdx(1600 * k), gap_samples: 0, sample_rate_hz: 16_000, data }
}

#[test]
fn a_window_allocates_nothing_of_ours_after_warm_up() {
    check(PixelFormat::Gray);
    check(PixelFormat::Jpeg);
}

/// Feeds a camera's frames of `format`, a microphone's blocks and typed requests, and counts from the middle on.
fn check(format: PixelFormat) {
    let dir = attendant::bundle::locate(None).unwrap();
    let mut pipeline = Pipeline::load(&Bundle::open(&dir).unwrap(), &Options::default()).unwrap();
    // somebody looks on all the time
    let monitor = Arc::new(Monitor::new());
    pipeline.measure(&monitor, now_ns);
    let mut samples: Vec<(Arc<str>, Micros, Sample)> = Vec::new();
    for k in 0..200 {
        if k % 10 == 0 {
            // The longest first, so that every buffer has its size.
            let text = "what's the exchange rate, please?".repeat(if k == 0 { 2 } else { 1 });
            let utterance = Utterance { t: Micros::from_ms(100 * (k + 1)), text };
            samples.push(("text".into(), Micros::from_ms(100 * (k + 1)), Sample::Text(utterance)));
        }
        samples.push(("mic".into(), Micros::from_ms(100 * (k + 1)), Sample::Audio(block(k))));
        if k % 2 == 0 {
            samples.push(("camera".into(), Micros::from_ms(100 * (k + 1)), Sample::Frame(frame(k / 2, format))));
        }
    }
    let mut events: Vec<Event> = Vec::with_capacity(64);
    let warm_up = samples.len() / 2;
    let mut before = (0, 0);
    for (i, (source, now, sample)) in samples.iter().enumerate() {
        if i == warm_up {
            before = (OURS.with(Cell::get), ENGINE.with(Cell::get));
        }
        pipeline.process(source, sample, *now, &mut events);
        events.clear();
        assert!(monitor.renew(|snapshot| pipeline.observe(*now, snapshot)));
    }
    let ours = OURS.with(Cell::get) - before.0;
    let engine = ENGINE.with(Cell::get) - before.1;
    let windows: u64 = pipeline.counters().map(|(_, c)| c.windows).sum();
    println!("{format:?}: {windows} windows; after warm-up {ours} allocations of ours, {engine} of the engine's");
    assert!(monitor.latencies.step.count() > 100 && monitor.read(|s| s.mel.len()) == 40, "it was observed");
    assert!(windows > 100, "the samples were encoded");
    assert!(engine > 0, "the counter works: the engine is known to allocate");
    assert_eq!(ours, 0, "{format:?}");
}
