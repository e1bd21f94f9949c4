//! Creation: system fields, generated names, admission, the kind's decisions, one transaction that expects no such key.

use api::status::Status;
use serde_json::Value;
use store::Txn;

use super::{Entry, Registry, Write, Written, durability, metadata, put, services};
use crate::{
    admission,
    cache::object::{encode, with_revision, with_revision_as_given},
    error::{self, Result},
    wire::options::parse_number,
};

/// How often a taken generated name is replaced by another.
const NAME_TRIES: usize = 8;

impl Registry {
    /// Creates an object in `namespace` (empty for cluster-scoped kinds).
    pub async fn create(&self, entry: &Entry, namespace: &str, mut object: Value, write: Write<'_>) -> Result<Written> {
        fit(entry, namespace, &mut object)?;
        metadata::wipe(&mut object);
        // As upstream, where a dry run does not get as far as to where objects are kept, and what is no number says nothing.
        let revision = parse_number(metadata::text(&object, "resourceVersion")).unwrap_or(0);
        if !write.options.dry_run && revision != 0 {
            return Err(Status::unexpected("resourceVersion should not be set on objects to be created"));
        }
        self.create_fitting(entry, namespace, object, write).await
    }

    /// Creates what was put where nothing is. As upstream, a revision is passed over then, and a time of deletion stays.
    pub async fn put_new(&self, entry: &Entry, namespace: &str, mut object: Value, write: Write<'_>) -> Result<Written> {
        fit(entry, namespace, &mut object)?;
        self.create_fitting(entry, namespace, object, write).await
    }

    async fn create_fitting(&self, entry: &Entry, namespace: &str, object: Value, write: Write<'_>) -> Result<Written> {
        let info = entry.info();
        let base = metadata::text(&object, "generateName").to_owned();
        let generated = metadata::text(&object, "name").is_empty() && !base.is_empty();
        let tries = if generated { NAME_TRIES } else { 1 };
        let mut last = None;
        for _ in 0..tries {
            let mut object = object.clone();
            if generated {
                let name = (self.names)(&base);
                metadata::of(&mut object).insert("name".to_owned(), name.into());
            }
            match self.create_named(entry, namespace, object, write).await {
                Err(status) if status.is("AlreadyExists") && generated => last = Some(status),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| Status::generate_name_conflict(info.group_resource(), "", 1)))
    }

    async fn create_named(&self, entry: &Entry, namespace: &str, mut object: Value, write: Write<'_>) -> Result<Written> {
        let info = entry.info();
        let revision = metadata::text(&object, "resourceVersion").to_owned();
        let uid = uuid::Uuid::new_v4().to_string();
        metadata::stamp_new(&mut object, &uid, write.now);
        let name = metadata::text(&object, "name").to_owned();
        let generates = !metadata::text(&object, "generateName").is_empty();
        admission::on_create(self, entry, namespace, &mut object, write).await?;

        if services::concern(entry) {
            // What was given back a moment ago is free.
            self.catch_up().await?;
            services::check_ports(self, entry, &object, None, write.options.dry_run)?;
        }
        let admitted =
            entry.hooks().create(object, &write.context()).map_err(|refused| error::refused(info, &name, &refused))?;
        let (admitted, warnings) = (admitted.object, admitted.warnings);
        // What is there already is told with what the new object was warned of.
        let taken = |there: &Value| taken(entry, &name, generates, there).warned(warnings.clone());
        for _ in 0..services::TRIES {
            let mut object = admitted.clone();
            let claims = services::assign(self, entry, &mut object, None, write.options.dry_run)?;
            let stored = if entry.converts() { entry.hooks().to_stored(object) } else { object };
            let bytes = bytes::Bytes::from(encode(&stored));
            if write.options.dry_run {
                self.catch_up().await?;
                if let Some(found) = entry.cache.get(namespace, &name) {
                    return Err(taken(&entry.decode(&found)));
                }
                // As upstream, which gives back what it was given.
                let json = if entry.converts() { entry.show(&bytes) } else { bytes };
                let json = if revision.is_empty() { json } else { with_revision_as_given(&json, &revision) };
                return Ok(Written { json, warnings, created: true });
            }
            let key: std::sync::Arc<str> = entry.cache.key(namespace, &name).into();
            let mut txn = Txn {
                compare: vec![(key.clone(), 0)],
                ops: vec![put(info, key.clone(), bytes.clone())],
                durability: durability(info),
            };
            claims.add_to(&mut txn, &key);
            match self.commit(txn).await? {
                Ok(revision) => {
                    let json = with_revision(&bytes, revision);
                    let json = if entry.converts() { entry.show(&json) } else { json };
                    return Ok(Written { json, warnings, created: true });
                }
                Err(found) => match Self::current_from(entry, found.into_iter().next().flatten()) {
                    Some(there) => return Err(taken(&there.value)),
                    // An address or port was taken meanwhile; the cache learns of it and another is chosen.
                    None => self.catch_up().await?,
                },
            }
        }
        Err(Status::server_timeout(info.group_resource(), "create", 1))
    }
}

fn fit(entry: &Entry, namespace: &str, object: &mut Value) -> Result<()> {
    metadata::fit_kind(object, entry.info())?;
    metadata::fit_namespace(object, namespace, entry.info().namespaced)
}

/// What is said where another object has the name, which may be on its way out. As upstream, of whatever has a beginning of
/// names it is said that it could not be named, though it may have come with its name.
fn taken(entry: &Entry, name: &str, generates: bool, there: &Value) -> Status {
    let resource = entry.info().group_resource();
    let mut status = match generates {
        true => Status::generate_name_conflict(resource, name, 1),
        false => Status::already_exists(resource, name),
    };
    if metadata::is_terminating(there) {
        status.message.insert_str(0, "object is being deleted: ");
    }
    status
}
