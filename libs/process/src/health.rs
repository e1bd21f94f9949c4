//! `/healthz`, `/livez` and `/readyz` in upstream's words: `ok`, or a line a check with `?verbose` and on failure,
//! `?exclude=NAME`, and each check under a path of its own. [`answer`] decides; [`router`] serves it with `/metrics` for
//! components that have no API of their own.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use axum::{Router, extract::Path, http::Uri, response::IntoResponse, routing::get};
use http::{StatusCode, header};

use crate::metrics::{self, Metrics};

/// A named check; quick and without I/O (look at an atomic or a channel's latest value). `Err` says what is wrong.
#[derive(Clone)]
pub struct Check {
    /// The name in the listing (`ping`, `etcd`, `leaderElection`).
    pub name: &'static str,
    /// The check.
    pub run: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Check {
    /// A check of the given name.
    pub fn new(name: &'static str, run: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name, run: Arc::new(run) }
    }

    /// Always fine: the process answers.
    pub fn ping() -> Self {
        Self::new("ping", || Ok(()))
    }
}

/// The answer of endpoint `/NAME` (`readyz`) to a query (`verbose&exclude=etcd`), or of `/NAME/CHECK`; plain text.
pub fn answer(name: &str, checks: &[Check], one: Option<&str>, query: &str) -> (StatusCode, String) {
    if let Some(one) = one {
        return match checks.iter().find(|c| c.name == one).map(|c| (c.run)()) {
            Some(Ok(())) => (StatusCode::OK, "ok".to_owned()),
            Some(Err(why)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
            None => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        };
    }
    let mut verbose = false;
    let mut excluded = BTreeSet::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "verbose" => verbose = true,
            "exclude" => excluded.extend(value.split(',').filter(|v| !v.is_empty())),
            _ => {}
        }
    }
    let mut out = String::new();
    let mut failed = Vec::new();
    for check in checks {
        // Writing to a String cannot fail.
        let _ = if excluded.remove(check.name) {
            writeln!(out, "[+]{} excluded: ok", check.name)
        } else if let Err(why) = (check.run)() {
            failed.push(format!("{}: {why}", check.name));
            // The endpoint is public: the reason goes to the log only.
            writeln!(out, "[-]{} failed: reason withheld", check.name)
        } else {
            writeln!(out, "[+]{} ok", check.name)
        };
    }
    if !excluded.is_empty() {
        let names = excluded.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if !failed.is_empty() {
        tracing::info!("{name} check failed: {}", failed.join(","));
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{out}{name} check failed\n"));
    }
    if !verbose {
        return (StatusCode::OK, "ok".to_owned());
    }
    (StatusCode::OK, format!("{out}{name} check passed\n"))
}

const PLAIN: [(header::HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// `/healthz`, `/livez`, `/readyz` (and `/…/CHECK`) over the checks, and `/metrics`.
pub fn router(checks: Vec<Check>, metrics: Metrics) -> Router {
    let checks: Arc<[Check]> = checks.into();
    let mut router = Router::new();
    for name in ["healthz", "livez", "readyz"] {
        let (all, single) = (checks.clone(), checks.clone());
        router = router
            .route(
                &format!("/{name}"),
                get(move |uri: Uri| async move { (PLAIN, answer(name, &all, None, uri.query().unwrap_or(""))).reply() }),
            )
            .route(
                &format!("/{name}/{{check}}"),
                get(
                    move |Path(check): Path<String>| async move { (PLAIN, answer(name, &single, Some(&check), "")).reply() },
                ),
            );
    }
    router.route("/metrics", get(move || async move { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.text()) }))
}

trait Reply {
    fn reply(self) -> axum::response::Response;
}

impl Reply for ([(header::HeaderName, &'static str); 2], (StatusCode, String)) {
    fn reply(self) -> axum::response::Response {
        let (headers, (status, body)) = self;
        (status, headers, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![Check::ping(), Check::new("etcd", || Err("no route".to_owned()))]
    }

    #[test]
    fn failing_checks_are_listed_without_reasons() {
        let want = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(answer("readyz", &checks(), None, ""), (StatusCode::INTERNAL_SERVER_ERROR, want.to_owned()));
    }

    #[test]
    fn excluded_checks_do_not_run() {
        let want = "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\n\
                    readyz check passed\n";
        let got = answer("readyz", &checks(), None, "verbose&exclude=etcd&exclude=x");
        assert_eq!(got, (StatusCode::OK, want.to_owned()));
        assert_eq!(answer("readyz", &checks(), None, "exclude=etcd"), (StatusCode::OK, "ok".to_owned()));
    }

    #[test]
    fn single_checks_have_paths() {
        let all = checks();
        assert_eq!(answer("livez", &all, Some("ping"), ""), (StatusCode::OK, "ok".to_owned()));
        assert_eq!(answer("livez", &all, Some("etcd"), "").0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer("livez", &all, Some("nope"), "").0, StatusCode::NOT_FOUND);
    }
}
