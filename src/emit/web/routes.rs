//! Which request gets which answer.
//!
//! Every request passes [`guarded`] first: the Host header, the token and the origin are checked there, and every answer leaves through it with
//! the same security headers. `openapi.json` describes what is here; a test holds the two together.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use tokio::time::timeout;

use crate::emit::body::{self, BodyError, Resume};
use crate::signal::Command;

use super::assets::{Asset, is_match};
use super::counts::Reason;
use super::guard::{self, Stranger};
use super::{Shared, lock, report, stream};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 4 << 10;

/// How long a client has for its body.
const BODY_WAIT: Duration = Duration::from_secs(5);

/// The interface, for people and programs.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

const PREVIEW: &str = "/api/preview.jpg";

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every answer carries: the page runs its own code only, in no frame, and uses no device of the visitor's browser.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
    ),
];

type Web = State<Arc<Shared>>;

/// Every path with what it does.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Shared>>)> {
    vec![
        ("/", get(|State(shared): Web, headers: HeaderMap| async move { file(&shared, "index.html", &headers) })),
        ("/live", get(|State(shared): Web, headers: HeaderMap| async move { file(&shared, "live.html", &headers) })),
        ("/assets/{name}", get(asset)),
        ("/api/events", get(events)),
        ("/api/state", get(|State(shared): Web| async move { fresh(JSON, report::state(&shared)) })),
        ("/api/catalogue", get(|State(shared): Web| async move { fresh(JSON, report::catalogue(&shared)) })),
        ("/api/telemetry", get(telemetry)),
        (PREVIEW, get(preview)),
        ("/api/text", post(text)),
        ("/api/choice", post(choice)),
        ("/api/openapi.json", get(|| async { fresh(JSON, OPENAPI) })),
        ("/healthz", get(health)),
        ("/metrics", get(metrics)),
    ]
}

/// All of it.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, what)| router.route(path, what));
    router
        .fallback(|State(shared): Web| async move {
            refuse(&shared, Reason::NotFound, StatusCode::NOT_FOUND, "there is nothing here; see /api/openapi.json")
        })
        .method_not_allowed_fallback(|State(shared): Web| async move {
            refuse(&shared, Reason::Method, StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .with_state(Arc::clone(shared))
        .layer(from_fn_with_state(Arc::clone(shared), guarded))
}

/// Lets a request through to its route, or says why not.
async fn guarded(State(shared): Web, request: Request, next: Next) -> Response {
    let mut response = match refusal(&shared, &request) {
        None => next.run(request).await,
        Some(response) => response,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    shared.counts.answer(response.status().as_u16());
    response
}

/// Why the request goes to no route, whatever route it asks for.
fn refusal(shared: &Shared, request: &Request) -> Option<Response> {
    let (headers, path) = (request.headers(), request.uri().path());
    let host = match shared.names.check(request.uri(), headers) {
        Ok(host) => host,
        Err(Stranger::NoHost) => {
            let why = "expected one Host header with a name and a port";
            return Some(refuse(shared, Reason::Host, StatusCode::BAD_REQUEST, why));
        }
        Err(_) => {
            let why = "this name is not served here; add it to allowed_hosts if it is yours";
            return Some(refuse(shared, Reason::Host, StatusCode::MISDIRECTED_REQUEST, why));
        }
    };
    // a picture shows on any page that names it, where other answers are only fetched
    let is_reading = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) && path != PREVIEW;
    if !is_reading && guard::check_origin(host, headers).is_err() {
        let why = "only this server's own page may ask for that";
        return Some(refuse(shared, Reason::Origin, StatusCode::FORBIDDEN, why));
    }
    // the page's files and the health check say nothing about anybody
    let is_open = !(path.starts_with("/api/") || path == "/metrics");
    if let Some(token) = &shared.token
        && !is_open
        && !guard::has_token(token, headers)
    {
        let why = "expected the header Authorization: Bearer TOKEN";
        let mut response = refuse(shared, Reason::Token, StatusCode::UNAUTHORIZED, why);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Some(response);
    }
    None
}

/// An answer that says no, and is counted.
fn refuse(shared: &Shared, reason: Reason, status: StatusCode, why: &str) -> Response {
    shared.counts.refuse(reason);
    let body = serde_json::json!({ "error": why }).to_string();
    let mut response =
        (status, [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, "no-store")], body).into_response();
    if reason == Reason::Size || reason == Reason::BodyTimeout {
        // what is left of the body is not read
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer that holds for this moment.
fn fresh(content_type: &'static str, body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")];
    (headers, body.into()).into_response()
}

async fn asset(State(shared): Web, Path(name): Path<String>, headers: HeaderMap) -> Response {
    file(&shared, &name, &headers)
}

/// A file of the page: unchanged if the client has it.
fn file(shared: &Shared, name: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = Asset::named(name) else {
        return refuse(shared, Reason::NotFound, StatusCode::NOT_FOUND, "the page has no such file");
    };
    let etag = asset.etag();
    let has_it =
        headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|given| is_match(given, &etag));
    let common = [(header::ETAG, etag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if has_it {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response()
}

async fn events(State(shared): Web, headers: HeaderMap) -> Response {
    let id = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let from = Resume::parse(id, &shared.run);
    match shared.counts.open_streams.take(shared.clients_max) {
        Some(seat) => streamed(stream::events(&shared, seat, from)),
        None => too_many(&shared),
    }
}

async fn telemetry(State(shared): Web) -> Response {
    match shared.counts.open_streams.take(shared.clients_max) {
        Some(seat) => streamed(stream::telemetry(&shared, seat)),
        None => too_many(&shared),
    }
}

fn streamed(stream: stream::Stream) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    // nginx would collect it otherwise
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, unbuffered, Body::new(stream)).into_response()
}

fn too_many(shared: &Shared) -> Response {
    refuse(shared, Reason::Streams, StatusCode::SERVICE_UNAVAILABLE, "too many streams are open; try again later")
}

async fn preview(State(shared): Web) -> Response {
    let Some(pictures) = &shared.pictures else {
        let why = "there is no preview: pictures do not leave this program; web.preview = true shows the camera's";
        return refuse(&shared, Reason::NotFound, StatusCode::NOT_FOUND, why);
    };
    match pictures.newest(&shared).await {
        Ok(picture) => {
            shared.counts.previews.inc();
            fresh(picture.content_type, picture.bytes)
        }
        Err(why) => refuse(&shared, Reason::NoPicture, StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn health(State(shared): Web) -> Response {
    let stuck = shared.why_stuck();
    let status = if stuck.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, fresh(PLAIN, report::health(stuck.as_deref()))).into_response()
}

async fn metrics(State(shared): Web) -> Response {
    match report::metrics(&shared) {
        Ok(text) => fresh(METRICS, text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn text(State(shared): Web, request: Request) -> Response {
    let bytes = match body_of(&shared, request).await {
        Ok(bytes) => bytes,
        Err(response) => return *response,
    };
    let text = match body::text(&bytes) {
        Ok(text) => text,
        Err(error) => return refuse_body(&shared, &error),
    };
    if !shared.facts.inputs.iter().any(|(_, _, is_typed)| *is_typed) {
        return refuse(&shared, Reason::Text, StatusCode::CONFLICT, "this bundle does not read; show or say it");
    }
    send(&shared, Command::Text(text))
}

async fn choice(State(shared): Web, request: Request) -> Response {
    let bytes = match body_of(&shared, request).await {
        Ok(bytes) => bytes,
        Err(response) => return *response,
    };
    let class = match body::choice(&bytes) {
        Ok(class) => class,
        Err(error) => return refuse_body(&shared, &error),
    };
    let (is_fallback, now) = shared.monitor.read(|s| (s.is_fallback, s.t));
    let is_class = shared.facts.labels.iter().any(|l| **l == *class);
    let is_offered = shared.view().offers(&class, now);
    let may_choose = is_offered || (is_fallback && is_class);
    if !may_choose {
        let why = format!("no open question offers {class:?}");
        return refuse(&shared, Reason::NotOffered, StatusCode::CONFLICT, &why);
    }
    send(&shared, Command::Choose { class })
}

fn send(shared: &Shared, command: Command) -> Response {
    match shared.commands.send(command) {
        Ok(()) => (StatusCode::ACCEPTED, fresh(JSON, r#"{"accepted":true}"#)).into_response(),
        // what the run makes of it shows in the events; here it can only be full
        Err(refusal) => refuse(shared, Reason::Busy, StatusCode::SERVICE_UNAVAILABLE, &refusal.message),
    }
}

fn refuse_body(shared: &Shared, error: &BodyError) -> Response {
    match error {
        BodyError::Json(why) => refuse(shared, Reason::Json, StatusCode::BAD_REQUEST, why),
        BodyError::TooLong(why) => refuse(shared, Reason::Size, StatusCode::PAYLOAD_TOO_LARGE, why),
        BodyError::Empty(why) => refuse(shared, Reason::Text, StatusCode::BAD_REQUEST, why),
    }
}

/// The bytes of a body of JSON, if its type, its size, its time and the rate of all requests allow.
async fn body_of(shared: &Shared, request: Request) -> Result<Vec<u8>, Box<Response>> {
    let headers = request.headers();
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(JSON) {
        let why = format!("expected Content-Type: {JSON}");
        return Err(Box::new(refuse(shared, Reason::MediaType, StatusCode::UNSUPPORTED_MEDIA_TYPE, &why)));
    }
    let too_large = || {
        let why = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        refuse(shared, Reason::Size, StatusCode::PAYLOAD_TOO_LARGE, &why)
    };
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Box::new(too_large()));
    }
    if !lock(&shared.bucket).take(shared.clock.now()) {
        let mut response =
            refuse(shared, Reason::Rate, StatusCode::TOO_MANY_REQUESTS, "too many requests; wait a second");
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return Err(Box::new(response));
    }
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let read = timeout(BODY_WAIT, async {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame else { return Err(false) };
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > BODY_BYTES_MAX {
                    return Err(true);
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(())
    })
    .await;
    match read {
        Ok(Ok(())) => {}
        Ok(Err(true)) => return Err(Box::new(too_large())),
        Ok(Err(false)) => {
            return Err(Box::new(refuse(shared, Reason::Json, StatusCode::BAD_REQUEST, "the body broke off")));
        }
        Err(_) => {
            let why = "the body did not come in time";
            return Err(Box::new(refuse(shared, Reason::BodyTimeout, StatusCode::REQUEST_TIMEOUT, why)));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_everything_described_is_a_route() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<(String, bool)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |method| (path.clone(), method == "post"))
            })
            .collect();
        let posts = ["/api/text", "/api/choice"];
        let ours: BTreeSet<(String, bool)> =
            routes().iter().map(|(path, _)| ((*path).to_owned(), posts.contains(path))).collect();
        assert_eq!(described, ours);
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                assert!(["get", "post"].contains(&method.as_str()), "{path} {method}");
                let responses = operation["responses"].as_object();
                assert!(responses.is_some_and(|r| !r.is_empty()) && operation["summary"].is_string(), "{path}");
            }
        }
    }
}
