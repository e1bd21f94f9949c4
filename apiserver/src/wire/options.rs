//! The options of requests, from query parameters (and for deletions from the body), checked as upstream does.

use api::{
    field::{ErrorKind, FieldErrors},
    schema::FieldValidation,
    selector::{FieldSelector, Selector},
    status::Status,
};
use serde::Deserialize;
use store::Revision;

use crate::{
    error::{Result, invalid_options},
    request::{decode, is_escaped},
};

/// Query parameters in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes a query string apart.
    pub fn parse(query: Option<&str>) -> Self {
        // Like Go, what is not escaped as it should be is passed over.
        let pairs = query.unwrap_or("").split('&').filter(|p| !p.is_empty() && !p.contains(';') && is_escaped(p));
        Self(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The first value, if it is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    }

    /// A flag: present and not `0` or `false`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !matches!(v, "0" | "false"))
    }

    /// A whole number, which it is where it is given: nothing is none.
    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        let read = |text: &str| {
            let why = |_| format!("strconv.ParseInt: parsing {}: {}", api::status::quote(text), not_a_number(text, true));
            text.parse().map_err(why).map_err(Status::bad_request)
        };
        self.get(name).map(read).transpose()
    }
}

/// How a resourceVersion is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// At least this.
    NotOlderThan,
    /// Exactly this.
    Exact,
}

/// `ListOptions`: list, watch and deletecollection.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Label selector, if it selects anything at all.
    pub labels: Option<Selector>,
    /// Field selector likewise.
    pub fields: Option<FieldSelector>,
    /// `resourceVersion`: `None` is unset. As upstream, one that is none is told of after all else that is wrong.
    pub revision: Result<Option<Revision>>,
    /// `resourceVersionMatch`.
    pub revision_match: Option<Match>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
    /// `limit`; 0 is none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: Option<String>,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
}

/// Why Go's parser does not take a text for a number: it is none, or none of 64 bits.
fn not_a_number(text: &str, signed: bool) -> &'static str {
    let digits = if signed { text.strip_prefix(['-', '+']).unwrap_or(text) } else { text };
    let digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if digits { "value out of range" } else { "invalid syntax" }
}

/// Reads a resourceVersion; empty is unset. `Err` says why it is none.
pub fn read_revision(text: &str) -> std::result::Result<Option<Revision>, FieldErrors> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_number(text).map(Some).map_err(|why| {
        let mut errors = FieldErrors::default();
        errors.invalid("resourceVersion", &text, why);
        errors
    })
}

/// A number as Go reads one without a sign.
pub fn parse_number(text: &str) -> std::result::Result<u64, String> {
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.ok_or_else(|| format!("strconv.ParseUint: parsing {}: {}", api::status::quote(text), not_a_number(text, false)))
}

/// The resourceVersion of a list, or of a watch. Upstream called a list's not its own error (500) up to v1.33, and still does a
/// watch's.
fn parse_revision(text: &str, watch: bool) -> Result<Option<Revision>> {
    read_revision(text).map_err(|errors| match watch {
        true => Status::unexpected(errors.to_string()),
        false => Status::bad_request(format!("invalid resource version: {errors}")),
    })
}

impl ListOptions {
    /// Reads and checks the options of a list or (`watch`) a watch.
    pub fn parse(query: &Query, watch: bool) -> Result<Self> {
        let bad_selector = |e: api::selector::ParseError| Status::bad_request(e.to_string());
        let labels = query.text("labelSelector").map(Selector::parse).transpose().map_err(bad_selector)?;
        let fields = query.text("fieldSelector").map(FieldSelector::parse).transpose().map_err(bad_selector)?;
        let revision_text = query.get("resourceVersion").unwrap_or("");
        let match_text = query.get("resourceVersionMatch").unwrap_or("");
        let continue_token = query.text("continue").map(str::to_owned);
        let send_initial_events = query.flag("sendInitialEvents");
        let timeout_seconds = query.number("timeoutSeconds")?.filter(|s| *s > 0).map(|s| s as u64);
        let limit = query.number("limit")?.unwrap_or(0);

        let mut errors = FieldErrors::default();
        let field = "resourceVersionMatch";
        if watch {
            if send_initial_events.is_some() && match_text != "NotOlderThan" {
                errors.forbidden(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if !match_text.is_empty() {
                if send_initial_events.is_none() {
                    errors.forbidden(
                        field,
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    );
                }
                if match_text != "NotOlderThan" {
                    errors.not_supported(field, &match_text, &["NotOlderThan"]);
                }
                if continue_token.is_some() {
                    errors.forbidden(field, "resourceVersionMatch is forbidden when continue is provided");
                }
            }
        } else {
            if !match_text.is_empty() {
                if revision_text.is_empty() {
                    errors.forbidden(field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                if continue_token.is_some() {
                    errors.forbidden(field, "resourceVersionMatch is forbidden when continue is provided");
                }
                match match_text {
                    "Exact" if revision_text == "0" => {
                        errors.forbidden(field, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                    }
                    "Exact" | "NotOlderThan" => {}
                    other => errors.not_supported(field, &other, &["Exact", "NotOlderThan", ""]),
                }
            }
            if send_initial_events.is_some() {
                errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
            }
        }
        if !errors.is_empty() {
            return Err(invalid_options("ListOptions", &errors));
        }
        Ok(Self {
            labels: labels.filter(|s| !s.is_empty()),
            fields: fields.filter(|s| !s.is_empty()),
            // Other ways to write 0 are numbers, but not the word for any state that there is.
            revision: parse_revision(revision_text, watch)
                .map(|said| said.filter(|revision| watch || *revision > 0 || revision_text == "0")),
            revision_match: match match_text {
                "Exact" => Some(Match::Exact),
                "NotOlderThan" => Some(Match::NotOlderThan),
                _ => None,
            },
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            timeout_seconds,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            send_initial_events,
        })
    }
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// What happens to unknown fields.
    pub field_validation: FieldValidation,
    /// `fieldManager`: checked, and otherwise only of interest to server-side apply.
    pub field_manager: String,
}

fn dry_run<'a>(values: impl IntoIterator<Item = &'a str>, errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.into_iter().collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(ErrorKind::NotSupported, "dryRun", &values, "supported values: \"All\"");
    }
    !values.is_empty()
}

impl WriteOptions {
    /// Reads and checks the options of a write; `kind` names them in errors (`CreateOptions`).
    pub fn parse(query: &Query, kind: &str) -> Result<Self> {
        let mut errors = FieldErrors::default();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_manager = query.get("fieldManager").unwrap_or("").to_owned();
        api::meta::validate_field_manager(&field_manager, "fieldManager", &mut errors);
        let field_validation = query.get("fieldValidation").unwrap_or("");
        let field_validation = FieldValidation::parse(field_validation).unwrap_or_else(|| {
            errors.not_supported("fieldValidation", &field_validation, &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::Warn
        });
        if kind == "PatchOptions" && query.get("force").is_some() {
            errors.forbidden("force", "may not be specified for non-apply patch");
        }
        if !errors.is_empty() {
            return Err(invalid_options(kind, &errors));
        }
        Ok(Self { dry_run, field_validation, field_manager })
    }
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Nothing is deleted.
    pub dry_run: bool,
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
    /// `propagationPolicy`, or what `orphanDependents` means.
    pub propagation: Option<Propagation>,
    /// `orphanDependents` as given: it changes the answer's status code.
    pub orphan_dependents: Option<bool>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must be at this resourceVersion.
    pub revision: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawDeleteOptions {
    dry_run: Option<Vec<String>>,
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Option<RawPreconditions>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPreconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// Reads and checks the options of a deletion: the body's if there is one, else the query's.
    pub fn parse(query: &Query, body: Option<serde_json::Value>) -> Result<Self> {
        let raw = match body {
            Some(mut body) => {
                if let Some(ty) = api::schema::table::table().by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") {
                    api::schema::check::check(&mut body, ty).map_err(Status::unexpected)?;
                }
                serde_json::from_value(body).map_err(|e| Status::unexpected(e.to_string()))?
            }
            None => RawDeleteOptions {
                dry_run: Some(query.all("dryRun").into_iter().map(str::to_owned).collect()),
                grace_period_seconds: query.number("gracePeriodSeconds")?,
                propagation_policy: query.get("propagationPolicy").map(str::to_owned),
                orphan_dependents: query.flag("orphanDependents"),
                preconditions: Some(RawPreconditions {
                    uid: query.text("uid").map(str::to_owned),
                    resource_version: query.text("resourceVersion").map(str::to_owned),
                }),
            },
        };
        let mut errors = FieldErrors::default();
        if raw.propagation_policy.is_some() && raw.orphan_dependents.is_some() {
            let policy = raw.propagation_policy.clone().unwrap_or_default();
            errors.invalid("propagationPolicy", &policy, "orphanDependents and deletionPropagation cannot be both set");
        }
        let propagation = match (raw.propagation_policy.as_deref(), raw.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(other), _) => {
                errors.not_supported("propagationPolicy", &other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
            (None, None) => None,
        };
        let dry_run = dry_run(raw.dry_run.iter().flatten().map(String::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(invalid_options("DeleteOptions", &errors));
        }
        let preconditions = raw.preconditions.unwrap_or_default();
        Ok(Self {
            dry_run,
            grace_seconds: raw.grace_period_seconds.map(|s| if s < 0 { 1 } else { s }),
            propagation,
            orphan_dependents: raw.orphan_dependents,
            uid: preconditions.uid,
            revision: preconditions.resource_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str, watch: bool) -> std::result::Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(Some(query)), watch).map_err(|s| s.message)
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused_with_upstreams_words() {
        let head = "ListOptions.meta.k8s.io \"\" is invalid: ";
        let cases = [
            (
                "resourceVersionMatch=Exact",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ),
            ("sendInitialEvents=true", false, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
            (
                "sendInitialEvents=true",
                true,
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "resourceVersionMatch=NotOlderThan&resourceVersion=1",
                true,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ];
        for (query, watch, want) in cases {
            assert_eq!(list(query, watch).unwrap_err(), format!("{head}{want}"), "{query}");
        }
    }

    #[test]
    fn revisions_are_numbers() {
        assert_eq!(list("resourceVersion=7", false).unwrap().revision, Ok(Some(7)));
        assert!(list("resourceVersion=x", false).unwrap().revision.is_err());
    }

    #[test]
    fn nothing_is_no_number() {
        let told = |error: Status| (error.code, error.message);
        let why = (400, "strconv.ParseInt: parsing \"\": invalid syntax".to_owned());
        let query = |text| Query::parse(Some(text));
        assert_eq!(ListOptions::parse(&query("limit="), false).map_err(told).unwrap_err(), why);
        assert_eq!(DeleteOptions::parse(&query("gracePeriodSeconds="), None).map_err(told).unwrap_err(), why);
    }

    #[test]
    fn deletion_is_told_by_body_or_query() {
        let query = Query::parse(Some("propagationPolicy=Foreground&gracePeriodSeconds=-3"));
        let options = DeleteOptions::parse(&query, None).unwrap();
        assert_eq!((options.propagation, options.grace_seconds), (Some(Propagation::Foreground), Some(1)));
        let body = serde_json::json!({"orphanDependents": true, "preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse(&query, Some(body)).unwrap();
        assert_eq!((options.propagation, options.uid.as_deref()), (Some(Propagation::Orphan), Some("u")));
    }
}
