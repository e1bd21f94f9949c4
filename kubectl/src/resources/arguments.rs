//! Arguments: `TYPE[,TYPE...]`, `TYPE NAME...`, `TYPE/NAME...`.

use super::Query;
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// What the arguments say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Types that stand alone or before names.
    pub types: Vec<String>,
    /// Names of the one type.
    pub names: Vec<String>,
    /// `TYPE/NAME`.
    pub pairs: Vec<(String, String)>,
    /// Whether types stand without names.
    pub alone: bool,
}

/// Texts between commas, each once.
fn split(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in text.split(',') {
        if !out.iter().any(|o| o == part) {
            out.push(part.to_owned());
        }
    }
    out
}

/// `a,b c d` is `a/c a/d b/c b/d`.
fn normalized(args: &[String]) -> Vec<String> {
    let types = args.first().map(|a| split(a)).unwrap_or_default();
    if args.len() < 2 || types.len() < 2 {
        return args.to_vec();
    }
    types.iter().flat_map(|kind| args[1..].iter().map(move |name| format!("{kind}/{name}"))).collect()
}

fn combined(args: &[String]) -> Result<bool, Failure> {
    match args.iter().filter(|a| a.contains('/')).count() {
        0 => Ok(false),
        n if n == args.len() => Ok(true),
        _ => Err(plain(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
        )),
    }
}

fn pair(text: &str) -> Result<(String, String), Failure> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [kind, name] if !kind.is_empty() && !name.is_empty() && split(kind).len() == 1 => {
            Ok(((*kind).to_owned(), (*name).to_owned()))
        }
        [_, _] => Err(plain("arguments in resource/name form must have a single resource and name")),
        _ => Err(plain("arguments in resource/name form may not have more than one slash")),
    }
}

/// Whether arguments name objects and not only types.
///
/// # Errors
/// If some are `TYPE/NAME` and others are not.
pub fn has_names(args: &[String]) -> Result<bool, Failure> {
    let args = normalized(args);
    Ok(combined(&args)? || args.len() > 1)
}

impl Query<'_> {
    /// Looks up the types that arguments name, for who fails anyway: upstream asks the server before it notices.
    pub async fn look_up(&self, cx: &Context) {
        let _ = Given::of(self, cx).await;
    }
}

impl Given {
    /// Reads the arguments; categories become their types.
    ///
    /// # Errors
    /// Upstream's complaints.
    pub async fn of(query: &Query<'_>, cx: &Context) -> Result<Self, Failure> {
        let mut given = Self::read(query.args, query.default_type)?;
        if given.pairs.is_empty() && !query.local && !query.exact {
            let (mut types, mut failures) = (Vec::new(), Vec::new());
            for name in given.types {
                match categories(cx, &name).await {
                    Ok(expanded) if expanded.is_empty() => types.push(name),
                    Ok(expanded) => types.extend(expanded),
                    // Each type asks for itself.
                    Err(failure) => failures.push(failure),
                }
            }
            match failures.len() {
                0 => given.types = types,
                1 => return Err(failures.remove(0).in_list()),
                _ => return Err(Failure::Many(failures)),
            }
        }
        Ok(given)
    }

    fn read(args: &[String], default_type: Option<&str>) -> Result<Self, Failure> {
        if let Some(kind) = default_type {
            let pairs = args.iter().map(|arg| match arg.contains('/') {
                true => pair(arg),
                false => Ok((kind.to_owned(), arg.clone())),
            });
            return Ok(Self { pairs: pairs.collect::<Result<_, _>>()?, ..Self::default() });
        }
        let args = normalized(args);
        if combined(&args)? {
            let pairs = args.iter().map(|a| pair(a)).collect::<Result<_, _>>()?;
            return Ok(Self { pairs, ..Self::default() });
        }
        Ok(match args.as_slice() {
            [] => Self::default(),
            [types] => Self { types: split(types), alone: true, ..Self::default() },
            [types, names @ ..] => Self { types: split(types), names: names.to_vec(), ..Self::default() },
        })
    }
}

async fn categories(cx: &Context, name: &str) -> Result<Vec<String>, Failure> {
    // Everything that is a resource's name is no category; only then does it matter whether what we know is fresh.
    // Without the server's kinds there are no categories; whoever looks for the kind will say why.
    let Ok(catalog) = cx.discovery()?.catalog().await else { return Ok(Vec::new()) };
    if catalog.argument(name).is_some() && catalog.category(name).is_empty() {
        return Ok(Vec::new());
    }
    Ok(catalog.category(name).iter().map(|m| m.group_resource()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Given, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Given::read(&args, None).map_err(|f| f.message())
    }

    #[test]
    fn arguments_have_three_forms() {
        let texts = |all: &[&str]| -> Vec<String> { all.iter().map(|t| (*t).to_owned()).collect() };
        let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(k, n)| ((*k).to_owned(), (*n).to_owned())).collect()
        };
        assert_eq!(read("pods,svc,pods"), Ok(Given { types: texts(&["pods", "svc"]), alone: true, ..Given::default() }));
        assert_eq!(read("pods a b"), Ok(Given { types: texts(&["pods"]), names: texts(&["a", "b"]), ..Given::default() }));
        assert_eq!(read("pod/a svc/b"), Ok(Given { pairs: pairs(&[("pod", "a"), ("svc", "b")]), ..Given::default() }));
        assert_eq!(read("pod,svc a"), Ok(Given { pairs: pairs(&[("pod", "a"), ("svc", "a")]), ..Given::default() }));
    }

    #[test]
    fn mixtures_are_refused() {
        for (line, want) in [
            ("pods pod/a", "there is no need to specify"),
            ("pod/a/b", "arguments in resource/name form may not have more than one slash"),
            ("pod/", "arguments in resource/name form must have a single resource and name"),
        ] {
            assert!(read(line).is_err_and(|e| e.starts_with(want)), "{line}");
        }
    }
}
