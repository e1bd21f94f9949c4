//! Lines on stderr in klog's form.

use std::time::Duration;

use hyper::body::Incoming;

use super::Call;

/// What klog puts before a message: severity, time, process, place.
fn head(severity: char, place: &str) -> String {
    let now = jiff::Zoned::now();
    format!("{severity}{} {:>7} {place}] ", now.strftime("%m%d %H:%M:%S%.6f"), std::process::id())
}

/// A line for who asked for them (`-v`).
pub fn line(text: &str) {
    eprintln!("{}{text}", head('I', "client.rs:1"));
}

/// An error that upstream logs at a place of its own and goes on from.
pub fn unhandled(place: &str, error: &str) {
    eprintln!("{}\"Unhandled Error\" err={}", head('E', place), api::field::go_quote(error));
}

/// A request and what came of it.
pub fn request<E>(call: &Call, uri: &str, sent: &Result<http::Response<Incoming>, E>, took: Duration, verbosity: i32) {
    let outcome = sent.as_ref().map_or_else(|_| String::new(), |r| r.status().to_string());
    line(&format!("{} {uri} {outcome} in {} milliseconds", call.method, took.as_millis()));
    if verbosity >= 7 {
        line("Request Headers:");
        for (name, value) in &call.headers {
            line(&format!("    {name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
    }
    if verbosity >= 8 {
        if !call.body.is_empty() {
            line(&format!("Request Body: {}", String::from_utf8_lossy(&call.body)));
        }
        if let Ok(response) = sent {
            line("Response Headers:");
            for (name, value) in response.headers() {
                line(&format!("    {name}: {}", String::from_utf8_lossy(value.as_bytes())));
            }
        }
    }
}
