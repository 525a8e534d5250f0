//! HTTP: `/livez`, `/readyz`, `/metrics`. Reads only; the admin API and the UI come later.
//! Serves plain HTTP: bind it to loopback or to a network that only operators reach.

use crate::health::{Health, Kind, Report};
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The checks behind `/livez` and `/readyz`.
    pub health: Arc<Health>,
    /// What `/metrics` renders.
    pub metrics: Arc<Metrics>,
    /// Brings mirrored figures up to date just before a scrape.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
}

/// Serves until `shutdown` resolves, then finishes what is in flight.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes(pages))
        .with_graceful_shutdown(shutdown)
        .await
}

fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

async fn index() -> &'static str {
    "flotilla: /livez /readyz (add ?verbose for the checks) /metrics\n"
}

async fn livez(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    health(pages, Kind::Live, query).await
}

async fn readyz(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    health(pages, Kind::Ready, query).await
}

async fn health(pages: Pages, kind: Kind, query: Option<String>) -> Response {
    let report = match tokio::task::spawn_blocking(move || pages.health.report(kind)).await {
        Ok(report) => report,
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    show(report, is_verbose(query.as_deref()))
}

fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        query
            .split('&')
            .any(|part| part.split('=').next() == Some("verbose"))
    })
}

/// A failed report is always shown whole: whoever reads it wants to know why.
fn show(report: Report, verbose: bool) -> Response {
    let status = if report.passed {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let text = if report.passed && !verbose {
        "ok\n".to_owned()
    } else {
        report.text
    };
    (status, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        (pages.refresh)();
        for kind in [Kind::Live, Kind::Ready] {
            pages.health.report(kind); // into the metrics
        }
        pages.metrics.render()
    });
    match rendered.await {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Identity;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        answer
    }

    #[tokio::test]
    async fn pages_answer_and_readiness_follows_the_node() {
        let identity = Identity {
            cluster: "c".into(),
            node: 1,
        };
        let metrics = Arc::new(Metrics::new(&identity));
        let health = Arc::new(Health::new(metrics.clone(), Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let pages = Pages {
            health: health.clone(),
            metrics,
            refresh: Arc::new(|| ()),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, pages, async {
            let _ = stopped.await;
        }));
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let starting = ask(address, "/readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503") && starting.contains("[-]started failed"));
        health.set_started();
        assert!(ask(address, "/readyz").await.ends_with("ok\n"));
        assert!(
            ask(address, "/readyz?verbose")
                .await
                .contains("[+]not_draining ok")
        );
        assert!(ask(address, "/metrics").await.contains("flotilla_build_info"));
        stop.send(()).expect("still serving");
        serving.await.expect("joined").expect("served");
    }
}
