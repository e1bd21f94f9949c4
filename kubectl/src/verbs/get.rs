//! `kubectl get`: tables made by the server, or whole objects in one of the formats; watches.

use std::{cell::OnceCell, io::Write, sync::Arc};

use api::{field::go_quote, jsonpath::JsonPath, quantity::Quantity};
use serde_json::{Value, json};

use crate::{
    client::{ANY, Call, JSON, log},
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
    order,
    output::{
        OutputArgs, Printer, hide_managed_fields, json,
        table::{Options, TabWriter, TablePrinter, kind_of},
    },
    resources::{FileArgs, Query, Sources, Target, Turn, items, nameable},
};

const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const FORMATS: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,wide,yaml";

/// What `get` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Types and names.
    #[arg(value_name = "TYPE")]
    pub args: Vec<String>,
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Label selector: =, ==, !=, in, notin.
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Field selector: =, ==, !=.
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Objects of all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// How many objects to ask for at once; 0 is all.
    #[arg(long, default_value_t = 500)]
    pub chunk_size: i64,
    /// After listing, watch for changes.
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Watch for changes without listing first.
    #[arg(long)]
    pub watch_only: bool,
    /// Show what kind of event each change is.
    #[arg(long)]
    pub output_watch_events: bool,
    /// End well if what is asked for is not there.
    #[arg(long)]
    pub ignore_not_found: bool,
    /// A path of the server to print the answer of.
    #[arg(long)]
    pub raw: Option<String>,
    /// No headers in tables.
    #[arg(long)]
    pub no_headers: bool,
    /// The kind before names.
    #[arg(long)]
    pub show_kind: bool,
    /// All labels as the last column.
    #[arg(long)]
    pub show_labels: bool,
    /// Labels to show as columns.
    #[arg(long, short = 'L', value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// The field to sort by, as a JSONPath expression.
    #[arg(long)]
    pub sort_by: Option<String>,
    /// Let the server make the tables.
    #[arg(long, default_value_t = true)]
    pub server_print: bool,
    /// The subresource to get.
    #[arg(long, default_value = "")]
    pub subresource: String,
}

impl Args {
    fn human(&self) -> bool {
        let output = self.output.output.as_deref().unwrap_or_default();
        output == "wide" || (output.is_empty() && self.output.template.as_deref().unwrap_or_default().is_empty())
    }

    fn sort_field(&self) -> Option<&str> {
        self.sort_by.as_deref().filter(|s| !s.is_empty())
    }

    fn validate(&self) -> Result<(), Failure> {
        let (format, _) = self.output.split();
        if let Some(raw) = &self.raw {
            if !self.args.is_empty() {
                return Err(plain("arguments may not be passed when --raw is specified"));
            }
            if self.watch || self.watch_only || self.selector.is_some() {
                return Err(plain(
                    "--raw may not be specified with other flags that filter the server request or alter the output",
                ));
            }
            if !format.is_empty() {
                return Err(plain("--raw and --output are mutually exclusive"));
            }
            if !raw.starts_with('/') {
                return Err(plain(format!(
                    "--raw must be a valid URL path: parse {}: invalid URI for request",
                    go_quote(raw)
                )));
            }
            return Ok(());
        }
        if !self.watch && !self.watch_only && self.args.is_empty() && self.files.is_empty() {
            eprint!(
                "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n\n"
            );
            return Err(plain(
                "Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).\nSee 'kubectl get -h' for help and examples",
            ));
        }
        let output = self.output.output.as_deref().unwrap_or_default();
        if self.show_labels && !output.is_empty() && output != "wide" {
            return Err(plain(format!("--show-labels option cannot be used with {output} printer")));
        }
        if self.output_watch_events && !(self.watch || self.watch_only) {
            return Err(plain("--output-watch-events option can only be used with --watch or --watch-only"));
        }
        Ok(())
    }

    fn query(&self) -> Query<'_> {
        Query {
            args: &self.args,
            files: Some(&self.files),
            labels: self.selector.as_deref(),
            fields: self.field_selector.as_deref(),
            all_namespaces: self.all_namespaces,
            type_suffices: true,
            latest: true,
            subresource: &self.subresource,
            chunk_size: if self.sort_field().is_some() { 0 } else { self.chunk_size },
            ..Query::default()
        }
    }

    fn table_options(&self) -> Options {
        Options {
            no_headers: self.no_headers,
            wide: self.output.split().0 == "wide",
            label_columns: self.label_columns.clone(),
            show_labels: self.show_labels,
            ..Options::default()
        }
    }

    fn printer(&self) -> Result<Printer, Failure> {
        match self.output.printer_among(FORMATS)? {
            Some(Printer::Columns(mut columns)) => {
                // Upstream prints the headers that a file has, asked to or not.
                columns.no_headers = self.no_headers && self.output.split().0 == "custom-columns";
                Ok(Printer::Columns(columns))
            }
            Some(printer) => Ok(printer),
            None => Err(plain("no printer")),
        }
    }
}

/// Prints objects.
///
/// # Errors
/// If they cannot be had; with several, after the others are printed.
pub async fn run(mut args: Args, cx: &Context) -> Result<(), Failure> {
    args.raw = args.raw.filter(|path| !path.is_empty());
    if args.raw.is_none() {
        cx.namespace()?;
    }
    args.validate()?;
    if let Some(raw) = &args.raw {
        let mut answer = cx.client()?.open(Call::get(raw.as_str()).accept(ANY)).await.map_err(|failure| match failure {
            // Of the time that it had.
            Failure::Plain(why) => Failure::Verbatim(format!("Unable to connect to the server: {why}"), 1),
            other => other,
        })?;
        while let Some(chunk) = answer.chunk().await? {
            std::io::stdout().write_all(&chunk)?;
        }
        return Ok(());
    }
    if args.watch || args.watch_only {
        if args.sort_field().is_some() {
            match args.watch {
                true => eprintln!("warning: --watch requested, --sort-by will be ignored for watch events received"),
                false => eprintln!("warning: --watch-only requested, --sort-by will be ignored"),
            }
        }
        return watch(&args, cx).await;
    }
    if args.human() { tables(&args, cx).await } else { objects(&args, cx).await }
}

/// Drops failures that are pardoned.
fn pardoned(args: &Args, failures: Vec<Failure>) -> Vec<Failure> {
    if args.ignore_not_found { Failure::but_missing(failures) } else { failures }
}

/// What upstream says of answers that are no tables.
const NO_TABLE: &str =
    "Unable to decode server response into a Table. Falling back to hardcoded types: attempt to decode non-Table object";

async fn tables(args: &Args, cx: &Context) -> Result<(), Failure> {
    let query = args.query();
    let mut targets = query.targets(cx).await?;
    let by_name = targets.by_name();
    let client = cx.client()?;
    let (mut pages, mut failures): (Vec<(Target, Vec<Value>)>, Sources) = (Vec::new(), Sources::default());
    while let Some(Turn { list, target }) = targets.next(&query, cx).await {
        let found = match target {
            Ok(target) => fetch_tables(args, &query, client, &target).await.map(|found| (target, found)),
            Err(failure) => Err(failure),
        };
        match found {
            Ok(found) => pages.push(found),
            Err(failure) => failures.add(list, failure),
        }
    }
    if let Some(field) = args.sort_field() {
        // Upstream takes several answers for objects of their own, tables though they are.
        if pages.iter().map(|(_, pages)| pages.len()).sum::<usize>() > 1 {
            let mut tables: Vec<Value> = pages.iter().flat_map(|(_, pages)| pages).cloned().collect();
            sort(&mut tables, field, OBJECTS, |table| table)?;
        }
        // It drops tables that cannot be sorted without a word.
        for (_, pages) in &mut pages {
            let mut kept = Vec::new();
            for mut page in std::mem::take(pages) {
                match sort_page(&mut page, field) {
                    Ok(()) => kept.push(page),
                    Err(Failure::Plain(_)) if page["kind"] == "Table" => {}
                    // What has no order ends the program.
                    Err(failure) => return Err(failure),
                }
            }
            *pages = kept;
        }
    }
    let failures = pardoned(args, failures.failures);
    let several = pages.iter().any(|(target, _)| target.mapping() != pages[0].0.mapping());
    let now = jiff::Timestamp::now();
    let (mut out, mut namespaced) = (String::new(), !args.all_namespaces);
    let mut at = 0;
    while at < pages.len() {
        let mapping = pages[at].0.mapping();
        let same = pages[at..].iter().take_while(|(t, _)| t.mapping() == mapping).count();
        namespaced &= mapping.namespaced;
        let mut options = args.table_options();
        options.with_namespace = args.all_namespaces && mapping.namespaced;
        options.with_kind = (several || args.show_kind).then(|| kind_of(mapping));
        let mut printer = TablePrinter::new(options);
        let rows: Vec<Vec<String>> = pages[at..at + same]
            .iter()
            .flat_map(|(_, pages)| pages)
            .inspect(|page| {
                if args.server_print && page["kind"] != "Table" {
                    log::at(2, "table_printer.go:45", NO_TABLE);
                }
            })
            .flat_map(|page| printer.rows(page, None, now))
            .collect();
        if !rows.is_empty() && !out.is_empty() && !args.no_headers {
            out.push('\n');
        }
        out.push_str(&TabWriter::default().lines(&rows));
        at += same;
    }
    print!("{out}");
    if out.is_empty() && !args.ignore_not_found && failures.is_empty() {
        match namespaced {
            true => eprintln!("No resources found in {} namespace.", cx.namespace()?),
            false => eprintln!("No resources found"),
        }
    }
    // Upstream wraps these twice, unless all are of objects by name: even a single one is shown as one of several.
    if failures.is_empty() || by_name { Failure::of(failures) } else { Err(Failure::Many(failures)) }
}

async fn fetch_tables(
    args: &Args,
    query: &Query<'_>,
    client: &crate::client::Client,
    target: &Target,
) -> Result<Vec<Value>, Failure> {
    let accept = if args.server_print { TABLE } else { JSON };
    match (target, args.sort_field()) {
        // Sorting looks into objects, which the server then puts into the table's rows.
        (Target::List { mapping, namespace }, Some(_)) if args.server_print => {
            let call = Call::get(mapping.path(namespace.as_deref(), None)).accept(accept).query("includeObject", "Object");
            let call = call.query_if("labelSelector", query.labels.unwrap_or_default());
            Ok(vec![client.json(call.query_if("fieldSelector", query.fields.unwrap_or_default())).await?])
        }
        (Target::Named { mapping, namespace, name }, Some(_)) if args.server_print => {
            nameable(name)?;
            let call =
                Call::get(mapping.path(namespace.as_deref(), Some(name))).accept(accept).query("includeObject", "Object");
            Ok(vec![client.json(call).await?])
        }
        _ => query.fetch(client, target, accept).await,
    }
}

fn sort_page(page: &mut Value, field: &str) -> Result<(), Failure> {
    match page["kind"].as_str() {
        Some("Table") => match page["rows"].as_array_mut() {
            // One row is in order, whatever the field.
            Some(rows) if rows.len() > 1 => sort(rows, field, ROWS, |row| &row["object"]),
            _ => Ok(()),
        },
        _ => match page["items"].as_array_mut() {
            Some(items) if items.len() > 1 => sort(items, field, OBJECTS, |item| item),
            _ => Ok(()),
        },
    }
}

/// Sorts by a JSONPath expression. What lacks the field comes first; if all lack it, the field is wrong. `told` is how upstream
/// calls what it sorts, and where it does.
fn sort(items: &mut Vec<Value>, field: &str, told: (&str, &str), object: impl Fn(&Value) -> &Value) -> Result<(), Failure> {
    let relaxed = api::jsonpath::relaxed(field)?;
    let path = JsonPath::parse(&relaxed)?.allow_missing_keys(true);
    let mut keyed: Vec<(Option<Value>, Value)> = Vec::new();
    for item in std::mem::take(items) {
        let found = path.find(object(&item))?.into_iter().next().and_then(|f| f.into_iter().next()).map(|v| v.into_owned());
        keyed.push((found, item));
    }
    if !keyed.is_empty() && keyed.iter().all(|(key, _)| key.is_none()) {
        return Err(plain(format!("couldn't find any field with path {} in the list of objects", go_quote(&relaxed))));
    }
    let unsortable = OnceCell::new();
    order::sort(&mut keyed, |(a, _), (b, _)| match (a, b) {
        // So what lacks the field is smaller than what lacks it, too.
        (None, _) => true,
        (_, None) => false,
        (Some(a), Some(b)) => is_less(a, b).unwrap_or_else(|why| unsortable.set(why).is_err()),
    });
    if let Some(why) = unsortable.get() {
        let (what, place) = told;
        let text = format!("Field {relaxed} in {what} is an unsortable type: interface, err: {why}");
        return Err(Failure::Verbatim(log::fatal(place, &text), 1));
    }
    *items = keyed.into_iter().map(|(_, item)| item).collect();
    Ok(())
}

/// What sorts objects, and what sorts a table's rows.
const OBJECTS: (&str, &str) = ("*unstructured.Unstructured", "sorter.go:329");
const ROWS: (&str, &str) = ("[][][]reflect.Value", "sorter.go:375");

/// Whether a value is less than another, or why that cannot be said.
fn is_less(a: &Value, b: &Value) -> Result<bool, String> {
    Ok(match (a, b) {
        (_, Value::Null) => false,
        (Value::Null, _) => true,
        (Value::Array(_), _) => return Err("unsortable type: []interface {}".to_owned()),
        (Value::Object(_), _) => return Err("unsortable type: map[string]interface {}".to_owned()),
        (Value::Bool(_), _) => return Err("unsortable type: bool".to_owned()),
        (Value::String(a), Value::String(b)) => match (a.parse::<Quantity>(), b.parse::<Quantity>()) {
            (Ok(x), Ok(y)) => x < y,
            _ => a.as_bytes() < b.as_bytes(),
        },
        (Value::Number(x), Value::Number(y)) if x.is_f64() == y.is_f64() => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x < y,
            _ => x.as_f64() < y.as_f64(),
        },
        _ => return Err("unsortable interface: interface".to_owned()),
    })
}

async fn objects(args: &Args, cx: &Context) -> Result<(), Failure> {
    let printer = args.printer();
    let query = args.query();
    let found = query.objects(cx).await?;
    let failures = pardoned(args, found.failures);
    if found.single && !failures.is_empty() {
        return Failure::of(failures);
    }
    let failures = Failure::flat(failures);
    let mut values: Vec<Value> = found.objects.into_iter().map(|o| o.value).collect();
    if values.is_empty() && args.ignore_not_found {
        return Failure::of(failures);
    }
    let printer = printer?;
    let mut value = match (found.single, values.len()) {
        (true, 1) => values.remove(0),
        _ => {
            if let Some(field) = args.sort_field().filter(|_| !values.is_empty()) {
                sort(&mut values, field, OBJECTS, |v| v)?;
            }
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": values})
        }
    };
    if !args.output.show_managed_fields && matches!(printer, Printer::Json | Printer::Yaml) {
        hide_managed_fields(&mut value);
    }
    if args.server_print && matches!(printer, Printer::Name | Printer::Template(..)) {
        log::at(2, "table_printer.go:45", NO_TABLE);
    }
    print!("{}", printer.print(&value, 0)?);
    Failure::of(failures)
}

/// What prints a watch's objects.
enum Show {
    Table(Box<TablePrinter>, TabWriter),
    Objects(Printer, usize),
}

impl Show {
    fn print(&mut self, args: &Args, object: &Value, event: &str) -> Result<(), Failure> {
        let shown = args.output_watch_events.then_some(event);
        match self {
            Self::Table(printer, writer) => {
                let rows = printer.rows(object, shown, jiff::Timestamp::now());
                print!("{}", writer.lines(&rows));
            }
            Self::Objects(printer, printed) => {
                let mut object = object.clone();
                if !args.output.show_managed_fields && matches!(printer, Printer::Json | Printer::Yaml) {
                    hide_managed_fields(&mut object);
                }
                if let (Some(event), Printer::Json) = (shown, &*printer) {
                    let event = Value::from(event);
                    println!("{{\"type\":{event},\"object\":{}}}", json::compact(&object));
                    *printed += 1;
                    return Ok(std::io::stdout().flush()?);
                }
                let value = match shown {
                    Some(event) if !matches!(printer, Printer::Name) => json!({"type": event, "object": object}),
                    _ => object,
                };
                print!("{}", printer.print(&value, *printed)?);
                *printed += 1;
                if let Printer::Columns(columns) = printer {
                    columns.no_headers = true;
                }
            }
        }
        Ok(std::io::stdout().flush()?)
    }
}

fn show_of(args: &Args, mapping: Option<&Arc<Mapping>>) -> Result<Show, Failure> {
    if !args.human() {
        return Ok(Show::Objects(args.printer()?, 0));
    }
    let mut options = args.table_options();
    options.with_namespace = args.all_namespaces;
    options.with_kind = mapping.filter(|_| args.show_kind).map(|mapping| kind_of(mapping));
    Ok(Show::Table(Box::new(TablePrinter::new(options)), TabWriter::default()))
}

async fn watch(args: &Args, cx: &Context) -> Result<(), Failure> {
    let query = Query { single_type: true, ..args.query() };
    let (mut asked, mut targets, mut failures) = (query.targets(cx).await?, Vec::new(), Sources::default());
    while let Some(Turn { list, target }) = asked.next(&query, cx).await {
        match target {
            Ok(target) => targets.push(target),
            Err(failure) => failures.add(list, failure),
        }
    }
    Failure::of(failures.failures)?;
    let [target] = targets.as_slice() else {
        let same = targets.windows(2).all(|pair| pair[0].mapping() == pair[1].mapping());
        if same {
            let mut show = show_of(args, targets.first().map(Target::mapping))?;
            let accept = if args.human() && args.server_print { TABLE } else { JSON };
            for target in &targets {
                for page in query.fetch(cx.client()?, target, accept).await? {
                    show.print(args, &page, "ADDED")?;
                }
            }
        }
        return Err(plain(match same {
            true => "you may only watch a single resource or type of resource at a time",
            false => {
                "watch is only supported on individual resources and resource collections - more than 1 resource was found"
            }
        }));
    };
    let client = cx.client()?;
    let (mapping, accept) = (target.mapping(), if args.human() && args.server_print { TABLE } else { JSON });
    let pages = query.fetch(client, target, accept).await?;
    let mut show = show_of(args, Some(mapping))?;
    let list = matches!(target, Target::List { .. });
    let version = pages.last().and_then(|p| p["metadata"]["resourceVersion"].as_str()).unwrap_or_default().to_owned();
    if !args.watch_only {
        for page in pages {
            let each = if list && matches!(show, Show::Objects(..)) { items(page) } else { vec![page] };
            for object in each {
                show.print(args, &object, "ADDED")?;
            }
        }
    }
    let mut call = Call::get("").accept(accept).query("watch", "true");
    match target {
        Target::List { namespace, .. } => {
            call.path = mapping.path(namespace.as_deref(), None);
            call = call.query_if("labelSelector", query.labels.unwrap_or_default());
            call = call.query_if("fieldSelector", query.fields.unwrap_or_default()).query("resourceVersion", version);
        }
        Target::Named { namespace, name, .. } => {
            call.path = mapping.path(namespace.as_deref(), None);
            call = call.query("fieldSelector", format!("metadata.name={name}")).query("resourceVersion", "0");
        }
        Target::Local(object) => {
            call.path = object.collection();
            call = call.query("fieldSelector", format!("metadata.name={}", object.name)).query("resourceVersion", "0");
        }
    }
    let mut stream = client.open(call).await?;
    // A watch of one object begins with the object itself, which has been shown.
    let mut shown = list;
    // How a watch ends is no error: servers end them after a while, and so does --request-timeout.
    let limit = client.endpoint().timeout;
    let ended = async {
        match limit.is_zero() {
            true => std::future::pending().await,
            false => tokio::time::sleep(limit).await,
        }
    };
    tokio::pin!(ended);
    loop {
        let (event, object) = tokio::select! {
            next = stream.event() => match next {
                Ok(Some(next)) => next,
                _ => break,
            },
            () = &mut ended => break,
        };
        if shown {
            show.print(args, &object, &event)?;
        }
        shown = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_by_fields() {
        let mut items = vec![json!({"n": "b", "q": "1Gi"}), json!({"n": "a", "q": "500Mi"}), json!({"q": "2"})];
        sort(&mut items, ".n", OBJECTS, |v| v).unwrap();
        assert_eq!(items.iter().map(|i| i["n"].as_str()).collect::<Vec<_>>(), [None, Some("a"), Some("b")]);
        sort(&mut items, "{.q}", OBJECTS, |v| v).unwrap();
        assert_eq!(items.iter().map(|i| i["q"].as_str().unwrap()).collect::<Vec<_>>(), ["2", "500Mi", "1Gi"]);
        let wrong = sort(&mut items, ".x", OBJECTS, |v| v).unwrap_err();
        assert_eq!(wrong.to_string(), "error: couldn't find any field with path \"{.x}\" in the list of objects");
    }
}
