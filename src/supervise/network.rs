//! The one thread of everything that talks to a network: a single-threaded runtime and the services on it.
//!
//! Services (a web server, a broker's client) live in `emit` and start no thread. One that panics is counted and started again with
//! backoff; one that returns has ended. They share the thread, so none may block it. Nothing here knows a protocol, and
//! nothing of the data path waits for this thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{info, warn};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::metrics::Counter;

/// First wait before a service that panicked is started again; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest wait before a service that panicked is started again.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How long the thread has to end when the network is dropped.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Names are looked up on a thread of the runtime's own: one is enough.
const BLOCKING_THREADS_MAX: usize = 1;

/// What a service does from its start to its end.
pub type Running = Pin<Box<dyn Future<Output = ()>>>;

/// Something that talks to a network.
pub struct Service {
    /// For the log.
    pub name: &'static str,
    /// Starts it; called again after a panic.
    pub start: Box<dyn FnMut() -> Running + Send>,
}

/// The thread. Dropping it ends every service: within 1.5 s, or the thread is left behind and the log says so.
#[derive(Debug)]
pub struct Network {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts the thread and `services` on it. Panics of services are counted in `panics`.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(services: Vec<Service>, panics: Arc<Counter>) -> io::Result<Network> {
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let thread = thread::Builder::new().name("network".into()).spawn(move || {
            let local = LocalSet::new();
            for service in services {
                local.spawn_local(tend(service, Arc::clone(&panics)));
            }
            local.block_on(&runtime, until(stopped));
            drop(local);
            // what still runs is dropped where it waits
            runtime.shutdown_timeout(FAREWELL / 2);
        })?;
        Ok(Network { stop, thread: Some(thread) })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return };
        for _ in 0..FAREWELL.as_millis() / 5 {
            if thread.is_finished() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // its panic, if it had one, was reported where it happened
            let _ = thread.join();
        } else {
            warn!("network: the thread is still busy; left behind");
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // an error means that the sender is gone, which is the same
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Runs one service until it returns.
async fn tend(mut service: Service, panics: Arc<Counter>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let running = tokio::task::spawn_local((service.start)());
        match running.await {
            Ok(()) => return info!("network: {} has ended", service.name),
            Err(error) if error.is_panic() => {
                panics.inc();
                warn!("network: {} panicked; starting it again in {} ms", service.name, backoff.as_millis());
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            // cancelled: the thread is ending
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn service(name: &'static str, start: impl FnMut() -> Running + Send + 'static) -> Service {
        Service { name, start: Box::new(start) }
    }

    /// Tells when it is dropped.
    struct Told(Sender<&'static str>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }

    #[test]
    fn a_service_that_panics_is_started_again_and_the_others_go_on() {
        let (said, heard) = channel();
        let mut starts = 0;
        let (flaky, steady) = (said.clone(), said);
        let services = vec![
            service("flaky", move || {
                starts += 1;
                let (n, said) = (starts, flaky.clone());
                Box::pin(async move {
                    assert!(n > 1, "the first time it panics");
                    said.send("flaky").unwrap();
                })
            }),
            service("steady", move || {
                let said = steady.clone();
                Box::pin(async move {
                    said.send(if thread::current().name() == Some("network") { "steady" } else { "where?" }).unwrap();
                    std::future::pending().await
                })
            }),
        ];
        let panics = Arc::new(Counter::new());
        let network = Network::start(services, Arc::clone(&panics)).unwrap();
        let mut words = [heard.recv_timeout(SOON).unwrap(), heard.recv_timeout(SOON).unwrap()];
        words.sort_unstable();
        assert_eq!(words, ["flaky", "steady"]);
        assert_eq!(panics.get(), 1);
        drop(network);
    }

    #[test]
    fn dropping_the_network_ends_services_wherever_they_wait() {
        let (said, heard) = channel();
        let endless = service("endless", move || {
            let told = Told(said.clone());
            Box::pin(async move {
                told.0.send("started").unwrap();
                std::future::pending::<()>().await;
            })
        });
        let network = Network::start(vec![endless], Arc::default()).unwrap();
        assert_eq!(heard.recv_timeout(SOON), Ok("started"));
        drop(network);
        assert_eq!(heard.try_recv(), Ok("dropped"), "before drop returns");
    }
}
