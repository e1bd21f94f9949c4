//! `kubectl create deployment`.

use api::names::random_suffix;
use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{context::Context, failure::Failure, failure::plain};

/// Create a deployment with the specified name.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// Image to run; several make a pod of several containers.
    #[arg(long = "image", required = true)]
    images: Vec<String>,
    /// The port that the first container exposes.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    port: i32,
    /// How many replicas to run.
    #[arg(short, long, default_value_t = 1, allow_negative_numbers = true)]
    replicas: i32,
    /// Name of the deployment; after `--` the container's command.
    arguments: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "deployment", &args.arguments)?;
    let (name, command) = (making.name, making.command);
    if images(&args).count() > 1 && !command.is_empty() {
        return Err(plain("cannot specify multiple --image options and command"));
    }
    let object = deployment(name, command, &args, || random_suffix(&mut rand::rng(), 5));
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create deployment: " }).await
}

/// What stands between commas; a flag without a value was given but adds nothing.
fn images(args: &Args) -> impl Iterator<Item = &str> {
    args.images.iter().filter(|list| !list.is_empty()).flat_map(|list| list.split(','))
}

fn deployment(name: &str, command: &[String], args: &Args, mut suffix: impl FnMut() -> String) -> Value {
    let mut containers: Vec<Value> = images(args).map(|image| container(image, command, &mut suffix)).collect();
    if let (0.., Some(first)) = (args.port, containers.first_mut()) {
        first["ports"] = json!([{ "containerPort": args.port }]);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}},
        },
    })
}

fn container(image: &str, command: &[String], suffix: &mut impl FnMut() -> String) -> Value {
    let mut container = json!({"name": container_name(image, suffix), "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

/// The image's last path element without tag and digest; characters that names may not have become dashes, and then a
/// suffix keeps two such names apart.
fn container_name(image: &str, suffix: &mut impl FnMut() -> String) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split([':', '@']).next().unwrap_or(name);
    if name.contains(['_', '.']) { format!("{}-{}", name.replace(['_', '.'], "-"), suffix()) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::create::tests::{parse, written};

    #[test]
    fn containers_follow_images() {
        let args: Args = parse(&["x", "--image", "a/b_c.d:1,foo@sha256:aa", "--port", "80", "-r", "2"]);
        assert_eq!(
            written(deployment("x", &[], &args, || "zzzzz".to_owned())),
            concat!(
                r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"x","creationTimestamp":null,"labels":{"app":"x"}},"#,
                r#""spec":{"replicas":2,"selector":{"matchLabels":{"app":"x"}},"template":{"metadata":{"creationTimestamp":null,"#,
                r#""labels":{"app":"x"}},"spec":{"containers":[{"name":"b-c-d-zzzzz","image":"a/b_c.d:1","ports":[{"containerPort":80}],"#,
                r#""resources":{}},{"name":"foo","image":"foo@sha256:aa","resources":{}}]}},"strategy":{}},"status":{}}"#
            )
        );
    }

    #[test]
    fn the_command_runs_in_the_container() {
        let args: Args = parse(&["x", "--image", "i"]);
        let command = ["sh".to_owned(), "-c".to_owned()];
        let containers = &deployment("x", &command, &args, String::new)["spec"]["template"]["spec"]["containers"];
        assert_eq!(*containers, json!([{"name": "i", "image": "i", "command": ["sh", "-c"]}]));
    }
}
