//! `kubectl events`: a table of events in the order of time.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    client::Call,
    context::Context,
    describe::{
        json::Json,
        writer::{escape, timestamp},
    },
    failure::{Failure, plain},
    order,
    output::{OutputArgs, Printer, hide_managed_fields, table::TabWriter},
    resources::items,
    typed,
};

/// What `events` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// After listing the requested events, watch for more events.
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Events of all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Only events about this TYPE/NAME.
    #[arg(long = "for", default_value = "")]
    pub about: String,
    /// Only events of these types.
    #[arg(long, value_delimiter = ',')]
    pub types: Vec<String>,
    /// Print no headers.
    #[arg(long)]
    pub no_headers: bool,
    /// How many events are asked for at once; 0 is all.
    #[arg(long, default_value_t = 500)]
    pub chunk_size: i64,
    /// What else there is; nothing of it means anything.
    #[arg(hide = true)]
    pub ignored: Vec<String>,
}

/// Prints events.
///
/// # Errors
/// If they cannot be read.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let namespace = cx.namespace()?;
    let fields = match args.about.as_str() {
        "" => String::new(),
        about => about_selector(cx, about).await?,
    };
    cx.client()?;
    let printer = args.output.printer_of_output()?;
    if !args.types.iter().all(|kind| kind.eq_ignore_ascii_case("Normal") || kind.eq_ignore_ascii_case("Warning")) {
        return Err(plain("valid --types are Normal or Warning"));
    }
    let wanted =
        |event: &Value| args.types.is_empty() || args.types.iter().any(|kind| kind.eq_ignore_ascii_case(event.text("type")));
    let path = match args.all_namespaces {
        true => "/api/v1/events".to_owned(),
        false => format!("/api/v1/namespaces/{namespace}/events"),
    };
    let mut table = Table { writer: TabWriter::default(), namespaces: args.all_namespaces, headers: !args.no_headers };
    let client = cx.client()?;
    if args.watch {
        let call = Call::get(path).query_if("fieldSelector", &fields).query("limit", "500").query("watch", "true");
        let mut stream = client.open(call).await?;
        let mut printed = 0;
        loop {
            let (kind, event) = match stream.event().await {
                Ok(Some(event)) => event,
                // A watch whose connection breaks, or whose time is over, has ended.
                Ok(None) | Err(Failure::Plain(_)) => return Ok(()),
                Err(failure) => return Err(failure),
            };
            if kind == "DELETED" || !wanted(&event) {
                continue;
            }
            match &printer {
                Some(printer) => print!(
                    "{}",
                    printer.print_with(&event, printed, args.output.show_managed_fields, crate::output::json::compact)?
                ),
                None => print!("{}", table.rows(&[event], Timestamp::now())),
            }
            printed += 1;
        }
    }
    let (mut events, mut token) = (Vec::new(), String::new());
    loop {
        let call = Call::get(&*path).query_if("fieldSelector", &fields);
        let call = call.query("limit", "500").query_if("continue", &token);
        let page = client.json(call).await?;
        token = page.text("metadata.continue").to_owned();
        events.extend(items(page));
        if token.is_empty() {
            break;
        }
    }
    events.retain(wanted);
    order::sort_by_key(&mut events, time);
    if events.is_empty() {
        match args.all_namespaces {
            true => eprintln!("No events found."),
            false => eprintln!("No events found in {namespace} namespace."),
        }
        return Ok(());
    }
    match printer {
        // Upstream's printer of names knows no typed lists, and nobody hears of it.
        Some(Printer::Name) => {}
        Some(printer) => {
            if !args.output.show_managed_fields {
                events.iter_mut().for_each(hide_managed_fields);
            }
            let events: Vec<Value> = events.into_iter().map(typed::complete).collect();
            match printer {
                Printer::Json => println!("{}", typed_list(&events)),
                printer => {
                    let list = json!({"apiVersion": "v1", "items": events, "kind": "EventList", "metadata": {}});
                    print!("{}", printer.print(&list, 0)?);
                }
            }
        }
        None => print!("{}", table.rows(&events, Timestamp::now())),
    }
    Ok(())
}

/// A list in its type's order.
fn typed_list(events: &[Value]) -> String {
    let item = |event: &Value| format!("        {}", typed::pretty(event).replace('\n', "\n        "));
    let items = events.iter().map(item).collect::<Vec<_>>().join(",\n");
    format!(
        "{{\n    \"kind\": \"EventList\",\n    \"apiVersion\": \"v1\",\n    \"metadata\": {{}},\n    \"items\": [\n{items}\n    ]\n}}"
    )
}

async fn about_selector(cx: &Context, about: &str) -> Result<String, Failure> {
    let (kind, name) = match about.split('/').collect::<Vec<_>>().as_slice() {
        [kind, name] => (kind.to_lowercase(), *name),
        [_] => return Err(plain("--for must be in resource/name form")),
        _ => return Err(plain("arguments in resource/name form may not have more than one slash")),
    };
    if kind.is_empty() {
        return Err(plain("a resource must be present, got: /, Resource="));
    }
    let mapping = cx.discovery()?.resource(&kind).await.map_err(|failure| match failure {
        Failure::NoResource(..) => Failure::Verbatim(failure.message(), 1),
        other => other,
    })?;
    Ok(format!(
        "involvedObject.kind={},involvedObject.apiVersion={},involvedObject.name={name}",
        mapping.kind,
        mapping.api_version()
    ))
}

/// When an event happened last.
fn time(event: &Value) -> Option<Timestamp> {
    let fields = ["series.lastObservedTime", "lastTimestamp", "eventTime"];
    fields.iter().find(|field| event.has(field)).and_then(|field| timestamp(event.at(field)))
}

struct Table {
    writer: TabWriter,
    namespaces: bool,
    headers: bool,
}

impl Table {
    fn rows(&mut self, events: &[Value], now: Timestamp) -> String {
        let mut rows = Vec::new();
        if std::mem::take(&mut self.headers) {
            let headers = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
            rows.push(headers[usize::from(!self.namespaces)..].iter().map(|header| (*header).to_owned()).collect());
        }
        for event in events {
            let object = format!("{}/{}", event.text("involvedObject.kind"), event.text("involvedObject.name"));
            let texts = [event.text("type"), event.text("reason"), &object, event.text("message").trim()];
            let mut row: Vec<String> = Vec::new();
            if self.namespaces {
                row.push(event.text("metadata.namespace").to_owned());
            }
            row.push(interval(event, now));
            row.extend(texts.map(|text| escape(text).into_owned()));
            rows.push(row);
        }
        self.writer.lines(&rows)
    }
}

/// `5s`, or `5s (x3 over 2m)` of one that happened several times.
pub fn interval(event: &Value, now: Timestamp) -> String {
    let since = |field: &str| api::duration::age(timestamp(event.at(field)), now);
    let first = since(if event.has("eventTime") { "eventTime" } else { "firstTimestamp" });
    if event.has("series") {
        format!("{} (x{} over {first})", since("series.lastObservedTime"), event.int("series.count"))
    } else if event.int("count") > 1 {
        format!("{} (x{} over {first})", since("lastTimestamp"), event.int("count"))
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        let now: Timestamp = "2020-01-01T00:10:00Z".parse().unwrap();
        let (first, last) = ("2020-01-01T00:00:00Z", "2020-01-01T00:09:00Z");
        let cases = [
            (json!({"firstTimestamp": first, "lastTimestamp": last, "count": 3}), "60s (x3 over 10m)"),
            (json!({"firstTimestamp": first, "lastTimestamp": last, "count": 1}), "10m"),
            (json!({"eventTime": first, "series": {"count": 2, "lastObservedTime": last}}), "60s (x2 over 10m)"),
            (json!({}), "<unknown>"),
        ];
        for (given, want) in cases {
            assert_eq!(interval(&given, now), want);
        }
    }
}
