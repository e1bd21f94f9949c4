//! `knarr image`: images of a local cluster's nodes, which may have no way to a registry, or of a runtime by itself.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::local::{
    control, layout,
    record::{Cluster, Node},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ImageCommand {
    /// Put the images of a docker or OCI archive into the nodes' stores.
    Load {
        /// The archive, compressed or not.
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// List the nodes' images.
    Ls {
        #[command(flatten)]
        target: Target,
    },
}

/// Which nodes.
#[derive(Debug, clap::Args)]
struct Target {
    /// The cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// Only this node.
    #[arg(long)]
    node: Option<String>,
    /// Not a local cluster's, but the store of a runtime by itself (`--root` of `knarr runtime`, DATA/runtime of an agent,
    /// DATA/node/runtime of a server).
    #[arg(long, conflicts_with_all = ["name", "node"])]
    root: Option<PathBuf>,
}

impl Target {
    fn nodes(&self) -> Result<Vec<Node>> {
        layout::check_name(&self.name)?;
        let all = Cluster::existing(&self.name)?.nodes()?;
        let Some(wanted) = &self.node else { return Ok(all) };
        let found: Vec<Node> = all.into_iter().filter(|node| node.name == *wanted).collect();
        if found.is_empty() {
            bail!("cluster {} has no node {wanted:?}", self.name);
        }
        Ok(found)
    }
}

/// All that an image is called: its tags, else a digest, else `nameless`.
pub fn names(image: &runtime::ImageRecord, nameless: &str) -> Vec<String> {
    if image.tags.is_empty() {
        return vec![image.digests.first().map_or(nameless, String::as_str).to_owned()];
    }
    image.tags.iter().cloned().collect()
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        ImageCommand::Load { file, target: Target { root: Some(root), .. } } => {
            let archive = File::open(file).with_context(|| format!("open {}", file.display()))?;
            let loaded = store(root)?.import(archive).with_context(|| format!("load {}", file.display()))?;
            for image in loaded {
                names(&image, &image.id).iter().for_each(|name| println!("loaded {name}"));
            }
        }
        ImageCommand::Ls { target: Target { root: Some(root), .. } } => {
            let store = store(root)?;
            println!("{:<50} {:<14} SIZE", "IMAGE", "ID");
            for image in store.list() {
                for name in names(&image, "<none>") {
                    println!("{name:<50} {:<14} {}", short(&image.id), image.size);
                }
            }
        }
        ImageCommand::Load { file, target } => {
            for node in target.nodes()? {
                let archive = File::open(file).with_context(|| format!("open {}", file.display()))?;
                let loaded = control::ask(&node.folder, "image load", archive);
                let loaded = loaded.with_context(|| format!("load {} into {}", file.display(), node.name))?;
                for image in loaded {
                    println!("{}: loaded {image}", node.name);
                }
            }
        }
        ImageCommand::Ls { target } => {
            let nodes = target.nodes()?;
            println!("{:<20} {:<50} {:<14} SIZE", "NODE", "IMAGE", "ID");
            for node in nodes {
                let lines = control::ask(&node.folder, "image ls", std::io::empty());
                for line in lines.with_context(|| format!("list the images of {}", node.name))? {
                    let fields: Vec<&str> = line.split('\t').collect();
                    if let [image, id, size] = fields.as_slice() {
                        println!("{:<20} {image:<50} {:<14} {size}", node.name, short(id));
                    }
                }
            }
        }
    }
    Ok(())
}

/// A runtime's images; it may be running, or start at this moment, or never have been started.
fn store(root: &Path) -> Result<runtime::ImageStore> {
    let images = root.join("images");
    runtime::ImageStore::beside(images.clone()).with_context(|| format!("open {}", images.display()))
}

fn short(id: &str) -> &str {
    let id = id.trim_start_matches("sha256:");
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_every_one_of_its_tags() {
        let image = |tags: &[&str], digests: &[&str]| runtime::ImageRecord {
            id: "sha256:1".into(),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            digests: digests.iter().map(|d| (*d).to_owned()).collect(),
            chain: Vec::new(),
            size: 0,
            config: Default::default(),
            pinned: false,
        };
        assert_eq!(names(&image(&["a:1", "a:2"], &["a@sha256:2"]), "<none>"), ["a:1", "a:2"]);
        assert_eq!(names(&image(&[], &["a@sha256:2"]), "<none>"), ["a@sha256:2"]);
        assert_eq!(names(&image(&[], &[]), "<none>"), ["<none>"]);
    }
}
