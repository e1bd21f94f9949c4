//! `kubectl create secret`: generic, docker-registry, tls.

use api::{field::go_quote, names};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    data::{self, Entry, Sources},
    generator::{Generated, Made, Making, hash_suffix, with_namespace},
    pair,
};
use crate::{
    context::Context,
    failure::{Failure, file_error, plain},
};

/// Create a secret with specified type.
#[derive(clap::Subcommand, Debug)]
pub enum Kind {
    /// Create a secret for use with a Docker registry.
    DockerRegistry(DockerRegistry),
    /// Create a secret from a local file, directory, or literal value.
    Generic(Generic),
    /// Create a TLS secret.
    Tls(Tls),
}

/// Arguments of `generic`.
#[derive(clap::Args, Debug)]
pub struct Generic {
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    sources: Sources,
    /// The type of secret to create.
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    of_type: String,
    /// Append a hash of the contents to the name.
    #[arg(long)]
    append_hash: bool,
    /// Name of the secret.
    names: Vec<String>,
}

/// Arguments of `docker-registry`.
#[derive(clap::Args, Debug)]
pub struct DockerRegistry {
    #[command(flatten)]
    made: Made,
    /// User at the registry.
    #[arg(id = "docker-username", long = "docker-username", default_value = "", hide_default_value = true)]
    username: String,
    /// Password at the registry.
    #[arg(id = "docker-password", long = "docker-password", default_value = "", hide_default_value = true)]
    password: String,
    /// Mail address at the registry.
    #[arg(long = "docker-email", default_value = "", hide_default_value = true)]
    email: String,
    /// The registry's address.
    #[arg(id = "docker-server", long = "docker-server", default_value = "https://index.docker.io/v1/")]
    server: String,
    /// File with the whole configuration instead.
    #[arg(long = "from-file", value_delimiter = ',')]
    files: Vec<String>,
    /// Append a hash of the contents to the name.
    #[arg(long)]
    append_hash: bool,
    /// Name of the secret.
    names: Vec<String>,
}

/// Arguments of `tls`.
#[derive(clap::Args, Debug)]
pub struct Tls {
    #[command(flatten)]
    made: Made,
    /// File with the certificate, PEM.
    #[arg(long, default_value = "", hide_default_value = true)]
    cert: String,
    /// File with the certificate's private key, PEM.
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Append a hash of the contents to the name.
    #[arg(long)]
    append_hash: bool,
    /// Name of the secret.
    names: Vec<String>,
}

/// Runs the command.
pub async fn run(kind: Kind, cx: &Context) -> Result<(), Failure> {
    let (making, object) = match &kind {
        Kind::Generic(args) => {
            let making = args.made.begin(cx, "secret generic", &args.names)?;
            let object = generic(args, named(&making)?)?;
            (making, object)
        }
        Kind::DockerRegistry(args) => {
            let making = args.made.begin(cx, "secret docker-registry", &args.names)?;
            let object = docker_registry(args, named(&making)?)?;
            (making, object)
        }
        Kind::Tls(args) => {
            let making = args.made.begin(cx, "secret tls", &args.names)?;
            let object = tls(args, making.name)?;
            (making, object)
        }
    };
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create secret " }).await
}

fn generic(args: &Generic, name: &str) -> Result<Value, Failure> {
    args.sources.validate()?;
    let mut entries = args.sources.of_literals()?;
    entries.extend(data::from_files(&args.sources.files)?);
    entries.extend(args.sources.of_env_files("secret")?);
    secret(name, &args.of_type, entries, args.append_hash)
}

fn docker_registry(args: &DockerRegistry, name: &str) -> Result<Value, Failure> {
    const KEY: &str = ".dockerconfigjson";
    if args.files.is_empty() && [&args.username, &args.password, &args.server].iter().any(|s| s.is_empty()) {
        return Err(plain(
            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
        ));
    }
    let keyed = |file: &String| if file.contains('=') { file.clone() } else { format!("{KEY}={file}") };
    let entries = match args.files.as_slice() {
        [] => vec![Entry { key: KEY.to_owned(), value: docker_config(args).into_bytes() }],
        files => data::from_files(&files.iter().map(keyed).collect::<Vec<_>>())?,
    };
    secret(name, "kubernetes.io/dockerconfigjson", entries, args.append_hash)
}

fn tls(args: &Tls, name: &str) -> Result<Value, Failure> {
    if args.key.is_empty() || args.cert.is_empty() {
        return Err(plain("key and cert must be specified"));
    }
    let read = |path: &str| {
        let failed =
            |e: std::io::Error| plain(format!("Cannot read file {path}, {}", file_error("open", path, &e).message()));
        std::fs::read(path).map_err(failed)
    };
    let (cert, key) = (read(&args.cert)?, read(&args.key)?);
    pair::check(&cert, &key).map_err(plain)?;
    let entries = vec![Entry { key: "tls.crt".to_owned(), value: cert }, Entry { key: "tls.key".to_owned(), value: key }];
    secret(name, "kubernetes.io/tls", entries, args.append_hash)
}

fn named<'a>(making: &Making<'a>) -> Result<&'a str, Failure> {
    match making.name {
        "" => Err(plain("name must be specified")),
        name => Ok(name),
    }
}

/// In the order in which Docker's own tools write it; empty fields are left out.
fn docker_config(args: &DockerRegistry) -> String {
    let text = |value: &str| crate::typed::sorted(&Value::String(value.to_owned()));
    let auth = STANDARD.encode(format!("{}:{}", args.username, args.password));
    let fields = [("username", &args.username), ("password", &args.password), ("email", &args.email), ("auth", &auth)];
    let fields =
        fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("\"{name}\":{}", text(value)));
    format!("{{\"auths\":{{{}:{{{}}}}}}}", text(&args.server), fields.collect::<Vec<_>>().join(","))
}

fn secret(name: &str, of_type: &str, entries: Vec<Entry>, append_hash: bool) -> Result<Value, Failure> {
    let mut data = Map::new();
    for Entry { key, value } in entries {
        let problems = names::config_map_key(&key);
        if !problems.is_empty() {
            return Err(plain(format!("{} is not valid key name for a Secret {}", go_quote(&key), problems.join(";"))));
        }
        if data.contains_key(&key) {
            return Err(plain(format!("cannot add key {key}, another key by that name already exists")));
        }
        data.insert(key, Value::String(STANDARD.encode(value)));
    }
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    if append_hash {
        let hash = hash_suffix(&json!({"kind": "Secret", "type": of_type, "name": name, "data": data}));
        object["metadata"]["name"] = Value::String(format!("{name}-{hash}"));
    }
    if !of_type.is_empty() {
        object["type"] = json!(of_type);
    }
    if !data.is_empty() {
        object["data"] = Value::Object(data);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::create::tests::parse;

    #[test]
    fn the_hash_is_upstreams() {
        let entries = vec![Entry { key: "a".to_owned(), value: b"b".to_vec() }];
        let want = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s-76gkfd766k"}, "type": "foo", "data": {"a": "Yg=="}});
        assert_eq!(secret("s", "foo", entries, true).unwrap(), want);
    }

    #[test]
    fn docker_configuration_is_in_dockers_order() {
        let args: DockerRegistry = parse(&["s", "--docker-username", "u", "--docker-password", "p", "--docker-email", "e"]);
        assert_eq!(
            docker_config(&args),
            r#"{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p","email":"e","auth":"dTpw"}}}"#
        );
    }
}
