//! What the generic registry knows of a kind: data ([`KindInfo`]) and decisions ([`Resource`]).
//!
//! A kind is one file in `kinds/`: it implements [`Resource`] for its `k8s-openapi` type. The registry, discovery, tables,
//! kubectl's printers and RBAC read nothing else. [`Hooks`] is the same thing with the type erased; the blanket
//! implementation decodes an object once, lets the kind default, prepare and validate it, and encodes it once.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    field::{self, FieldErrors},
    meta, pluck,
    schema::{nulls, table},
};

/// A kind's fixed facts, as discovery prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// `""` for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`: the resource name in paths.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `["po"]`.
    pub short_names: &'static [&'static str],
    /// `["all"]`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Which subresources the generic registry serves for it.
    pub subresources: &'static [Subresource],
    /// The verbs discovery announces; most kinds have [`ALL_VERBS`].
    pub verbs: &'static [&'static str],
    /// How `metadata.name` is checked.
    pub name_rule: NameRule,
    /// The key prefix in the store below `/registry/`, where it differs from `plural` (`services/specs`, `minions`).
    pub storage_prefix: Option<&'static str>,
    /// The server-side table's columns.
    pub columns: &'static [Column],
    /// Seconds an object lives after its last write (Events: 3600); `None` is forever.
    pub ttl_seconds: Option<u64>,
    /// Writes need not wait for the disk (Events, Leases).
    pub relaxed_durability: bool,
    /// Whether `metadata.generation` counts changes of everything outside metadata and status.
    pub has_generation: bool,
    /// An update may create (upstream's AllowCreateOnUpdate: Lease, Event, Endpoints, Service and RBAC's kinds), if the user may.
    pub create_on_update: bool,
    /// An update without resourceVersion is allowed (most kinds yes).
    pub unconditional_update: bool,
    /// Set where objects live under another kind's key prefix and in its form (events.k8s.io Event as core Event): that
    /// kind's group, version and kind. [`Hooks::to_stored`] and [`Hooks::from_stored`] convert without loss. Both kinds
    /// see each other's objects; the cache holds the stored form.
    pub stored_as: Option<(&'static str, &'static str, &'static str)>,
    /// Names of selectable fields besides `metadata.name` and `metadata.namespace`, in the order of [`Hooks::fields`].
    pub fields: &'static [&'static str],
    /// Other names that field selectors may use, and what they stand for: of what is in no object, everything is empty.
    pub field_aliases: &'static [(&'static str, &'static str)],
    /// The `Warning` header of every request for the kind, where it is deprecated.
    pub deprecation: Option<&'static str>,
    /// Whether deletion without `propagationPolicy` deletes dependents in the background (all but Events, which have none).
    pub garbage_collected: bool,
    /// Whether deletion without `propagationPolicy` leaves dependents as orphans (ReplicationControllers, for old clients).
    pub orphans_dependents: bool,
    /// How the kind itself checks its metadata.
    pub metadata_rules: MetadataRules,
}

/// How a kind checks metadata, beside the checks that every object goes through when it is created or updated: what is wrong
/// is told once by each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRules {
    /// Whether a new object's are checked; if not, they are once the object is known to be valid otherwise.
    pub on_create: bool,
    /// How often an update, to other parts than the status, is checked as if it was new.
    pub as_new: usize,
    /// How often an update is checked against the old object.
    pub against_old: usize,
    /// Whether finalizers have names of domains or are known ones.
    pub known_finalizers: bool,
}

impl MetadataRules {
    /// Most kinds'.
    pub const USUAL: Self = Self { on_create: true, as_new: 1, against_old: 1, known_finalizers: true };
    /// Of kinds that check only what changes.
    pub const CHANGES: Self = Self { as_new: 0, ..Self::USUAL };
    /// Of kinds whose updates are checked as new ones, and then again together with the old object.
    pub const TWICE: Self = Self { as_new: 2, ..Self::USUAL };
}

impl KindInfo {
    /// What most kinds are: core/v1, namespaced, all verbs, nothing special. For `..KindInfo::BASE`.
    pub const BASE: Self = Self {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        verbs: ALL_VERBS,
        name_rule: NameRule::DnsSubdomain,
        storage_prefix: None,
        columns: &[],
        ttl_seconds: None,
        relaxed_durability: false,
        has_generation: false,
        create_on_update: false,
        unconditional_update: true,
        stored_as: None,
        fields: &[],
        field_aliases: &[],
        deprecation: None,
        garbage_collected: true,
        orphans_dependents: false,
        metadata_rules: MetadataRules::USUAL,
    };

    /// The field that a field selector means by a name, if it means any. As upstream, objects without a namespace are selected
    /// by it where the kind has no fields of its own.
    pub fn selectable(&self, name: &str) -> Option<&'static str> {
        let own = self.fields.iter().chain(&["metadata.name"]).find(|field| **field == name);
        let own = own.copied().or((name == "metadata.namespace").then_some("metadata.namespace"));
        let own = own.filter(|field| self.namespaced || self.fields.is_empty() || *field != "metadata.namespace");
        own.or_else(|| self.field_aliases.iter().find(|(alias, _)| *alias == name).map(|(_, field)| *field))
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The key prefix below `/registry/`, without slashes around it.
    pub fn prefix(&self) -> &'static str {
        self.storage_prefix.unwrap_or(self.plural)
    }
}

/// All verbs of an ordinary kind, in discovery's order.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Parts of an object with a path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// `/status`: everything but metadata and status is kept.
    Status,
    /// `/scale`: an autoscaling/v1 Scale of the object.
    Scale,
    /// `/binding` and `/eviction`, `/log`, `/exec`, `/attach`, `/portforward`, `/ephemeralcontainers`, `/resize` of pods.
    Binding,
    /// See [`Subresource::Binding`].
    Eviction,
    /// See [`Subresource::Binding`].
    EphemeralContainers,
    /// See [`Subresource::Binding`].
    Resize,
    /// See [`Subresource::Binding`].
    Log,
    /// See [`Subresource::Binding`].
    Exec,
    /// See [`Subresource::Binding`].
    Attach,
    /// See [`Subresource::Binding`].
    PortForward,
    /// `/proxy` of pods, services and nodes.
    Proxy,
    /// `/finalize` of namespaces.
    Finalize,
    /// `/token` of service accounts.
    Token,
    /// `/approval` of certificate signing requests.
    Approval,
}

/// The grammar of `metadata.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters (most kinds).
    DnsSubdomain,
    /// RFC 1123 label, at most 63 characters (Namespace).
    DnsLabel,
    /// RFC 1035 label, at most 63 characters (Service).
    DnsLabel1035,
    /// One path segment without `/` and `%`, and so is what generated names begin with (RBAC).
    PathSegment,
    /// One path segment; generated names may begin with anything that can be a part of one.
    AnySegment,
}

/// One column of a server-side table (`meta.k8s.io/v1` TableColumnDefinition).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header as upstream prints it, e.g. `Nominated Node`.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// The field's documentation.
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// What a write is decided with besides the objects themselves: no clock and no randomness is read inside hooks.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// Now, RFC 3339 with seconds, as timestamps in objects are written.
    pub now: jiff::Timestamp,
    /// The requesting user's name.
    pub user: &'a str,
    /// What else is known of the user.
    pub requester: Requester<'a>,
}

/// What authentication knows of a user besides the name.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// A unique id behind the name, empty if there is none.
    pub uid: &'a str,
    /// Groups.
    pub groups: &'a [String],
    /// Whatever else the authenticator knows.
    pub extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

impl Requester<'static> {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { uid: "", groups: &[], extra: None };
}

/// A kind's decisions over its typed form. Every method has the default that most kinds share.
pub trait Resource: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind's facts.
    const INFO: KindInfo;

    /// The object's metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// Fills unset fields with upstream's defaults (`SetDefaults_*`). Runs on every write, before validation.
    fn set_defaults(&mut self) {}

    /// Clears what a client may not set at creation (status) and sets what the server decides. Upstream's
    /// `Strategy.PrepareForCreate`; runs after defaults. uid and timestamps are the registry's; generation is set by the
    /// blanket [`Hooks`] from [`Resource::generation_moves`].
    fn prepare_for_create(&mut self, _ctx: &Context) {}

    /// Restores what an update at this place may not change: for the main resource the status, for `/status` the spec.
    /// `at` is `None` for the main resource. Upstream's `PrepareForUpdate`.
    fn prepare_for_update(&mut self, _old: &Self, _at: Option<Subresource>, _ctx: &Context) {}

    /// Whether the update from `old` (prepared already) counts as a new generation. Read only with `INFO.has_generation`.
    fn generation_moves(&self, _old: &Self) -> bool {
        false
    }

    /// Checks a new object; paths and messages are upstream's. Metadata is checked by the registry.
    fn validate(&self, _errors: &mut FieldErrors) {}

    /// Checks an update, including [`Resource::validate`]'s rules where upstream does.
    fn validate_update(&self, _old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        self.validate(errors);
    }

    /// Warnings of what nobody can tell any more of a new object once it is prepared; they precede [`Resource::warnings`].
    fn warnings_before_preparation(&self) -> Vec<String> {
        Vec::new()
    }

    /// Warnings for the `Warning` response header.
    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        Vec::new()
    }

    /// Selectable fields besides `metadata.name` and `metadata.namespace`, with their values.
    fn fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// [`Resource::fields`] of encoded bytes. Overridden where a field's name is not its path or it has a default.
    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        let names = Self::INFO.fields;
        if names.is_empty() { Vec::new() } else { names.iter().copied().zip(pluck::texts(bytes, names)).collect() }
    }

    /// The cells of the object's table row, one for each of `INFO.columns`.
    fn cells(&self, now: jiff::Timestamp) -> Vec<Value>;

    /// [`Resource::cells`] of encoded bytes.
    fn cells_of(bytes: &[u8], now: jiff::Timestamp) -> Vec<Value> {
        let object = serde_json::from_slice::<Self>(bytes).or_else(|_| read(&serde_json::from_slice(bytes)?));
        object.map(|object| object.cells(now)).unwrap_or_default()
    }

    /// The `autoscaling/v1` Scale of the object, where it has one: (spec.replicas, status.replicas, status.selector).
    fn scale(&self) -> Option<Scale> {
        None
    }

    /// Sets `spec.replicas` from a Scale.
    fn set_scale(&mut self, _replicas: i32) {}

    /// Seconds an object being deleted is given before it goes, where its kind ends gracefully (pods); `None` where deletion
    /// is immediate whatever the request says. Upstream's `CheckGracefulDelete`.
    fn grace_seconds(&self, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Adds what decoding needs and the wire may leave out, or say as `null`.
    fn complete(_object: &mut Value) {}

    /// The object in the form of the kind it is stored as (`INFO.stored_as`).
    fn to_stored(object: Value) -> Value {
        object
    }

    /// The inverse of [`Resource::to_stored`].
    fn from_stored(object: Value) -> Value {
        object
    }
}

/// What `/scale` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.replicas`.
    pub status_replicas: i32,
    /// The selector in its string form.
    pub selector: String,
}

/// An object that passed a kind's decisions, encoded.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The object, without `apiVersion` missing and with defaults filled in.
    pub object: Value,
    /// For the `Warning` header.
    pub warnings: Vec<String>,
}

/// Why a kind refused an object.
#[derive(Debug)]
pub enum Refused {
    /// The JSON does not fit the type (400 BadRequest).
    Malformed(serde_json::Error),
    /// The fields break rules (422 Invalid, one cause a field).
    Invalid(FieldErrors),
}

/// [`Resource`] with its type erased: what the registry holds, for built-in and custom kinds alike.
pub trait Hooks: Send + Sync + 'static {
    /// Decodes, defaults, prepares, validates and encodes a new object.
    fn create(&self, object: Value, ctx: &Context) -> Result<Admitted, Refused>;
    /// The same for an update of `old` at the main resource or a subresource.
    fn update(&self, object: Value, old: &Value, at: Option<Subresource>, ctx: &Context) -> Result<Admitted, Refused>;
    /// Only defaults (reads of objects stored by older versions, dry conversions).
    fn default(&self, object: Value) -> Result<Value, Refused>;
    /// Selectable fields besides name and namespace.
    fn fields(&self, object: &Value) -> Vec<(&'static str, String)>;
    /// The same of encoded bytes as they are stored ([`KindInfo::stored_as`]), decoding only what it needs.
    fn fields_from_bytes(&self, bytes: &[u8]) -> Vec<(&'static str, String)>;
    /// One cell for each column.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;
    /// The same of encoded bytes as they are stored, without a JSON tree in between.
    fn cells_from_bytes(&self, bytes: &[u8], now: jiff::Timestamp) -> Vec<Value>;
    /// The object's scale, where it has one.
    fn scale(&self, object: &Value) -> Option<Scale>;
    /// The object with `spec.replicas` set.
    fn with_scale(&self, object: Value, replicas: i32) -> Result<Value, Refused>;
    /// Seconds that deletion gives the object ([`Resource::grace_seconds`]).
    fn grace_seconds(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// The object in the form it is stored in; the identity unless [`KindInfo::stored_as`] is set.
    fn to_stored(&self, object: Value) -> Value {
        object
    }
    /// The inverse of [`Hooks::to_stored`].
    #[allow(clippy::wrong_self_convention, reason = "the object is stored, not the hooks")]
    fn from_stored(&self, object: Value) -> Value {
        object
    }
}

/// A served kind: what `kinds::all()` lists.
pub struct Kind {
    /// Facts.
    pub info: KindInfo,
    /// Decisions.
    pub hooks: Box<dyn Hooks>,
}

impl Kind {
    /// The kind of a typed resource.
    pub fn of<T: Resource>() -> Self {
        Self { info: T::INFO, hooks: Box::new(Typed::<T>(std::marker::PhantomData)) }
    }
}

struct Typed<T>(std::marker::PhantomData<fn() -> T>);

fn decode<T: Resource>(mut object: Value) -> Result<T, Refused> {
    crate::normalize::normalize(&mut object).map_err(|error| Refused::Malformed(serde::de::Error::custom(error)))?;
    T::complete(&mut object);
    serde_json::from_value(object).map_err(Refused::Malformed)
}

/// An object of ours. One that our type refuses may lack what the type cannot be without: what another kind has stored, or a time
/// that is `null`.
fn read<T: Resource>(object: &Value) -> serde_json::Result<T> {
    T::deserialize(object).or_else(|_| {
        let mut object = object.clone();
        T::complete(&mut object);
        serde_json::from_value(object)
    })
}

fn encode<T: Resource>(object: &T) -> Result<Value, Refused> {
    let mut object = serde_json::to_value(object).map_err(Refused::Malformed)?;
    crate::normalize::drop_empty_names(&mut object);
    if let Some(ty) = table().by_kind(T::INFO.group, T::INFO.version, T::INFO.kind) {
        nulls::write(&mut object, ty);
    }
    Ok(object)
}

/// A kind's facts with what its names are held to if nobody else looks at them.
fn of_any_kind<T: Resource>() -> KindInfo {
    KindInfo { name_rule: NameRule::AnySegment, ..T::INFO }
}

impl<T: Resource> Hooks for Typed<T> {
    fn create(&self, object: Value, ctx: &Context) -> Result<Admitted, Refused> {
        let mut new: T = decode(object)?;
        new.set_defaults();
        let mut warnings = new.warnings_before_preparation();
        new.prepare_for_create(ctx);
        if T::INFO.has_generation {
            new.metadata_mut().generation = Some(1);
        }
        let mut errors = field::FieldErrors::default();
        let checks = T::INFO.metadata_rules;
        if checks.on_create {
            meta::validate(new.metadata(), &T::INFO, checks.known_finalizers, &mut errors);
        }
        new.validate(&mut errors);
        if !checks.on_create && errors.is_empty() {
            meta::validate(new.metadata(), &of_any_kind::<T>(), false, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Refused::Invalid(errors));
        }
        let later: Vec<String> = new.warnings(None).into_iter().filter(|warning| !warnings.contains(warning)).collect();
        warnings.extend(later);
        Ok(Admitted { object: encode(&new)?, warnings })
    }

    fn update(&self, object: Value, old: &Value, at: Option<Subresource>, ctx: &Context) -> Result<Admitted, Refused> {
        let mut new: T = decode(object)?;
        let mut old: T = read(old).map_err(Refused::Malformed)?;
        new.set_defaults();
        // What an older version stored lacks newer defaults; without them unchanged fields would look changed.
        old.set_defaults();
        new.prepare_for_update(&old, at, ctx);
        if T::INFO.has_generation {
            // A status is about a generation and never makes one, whatever comes with it.
            let moved = i64::from(at != Some(Subresource::Status) && new.generation_moves(&old));
            new.metadata_mut().generation = Some(old.metadata().generation.unwrap_or(0).saturating_add(moved));
        }
        let mut errors = field::FieldErrors::default();
        let checks = T::INFO.metadata_rules;
        let as_new = if at == Some(Subresource::Status) { 0 } else { checks.as_new };
        meta::validate(new.metadata(), &of_any_kind::<T>(), false, &mut errors);
        meta::validate_update(new.metadata(), old.metadata(), false, &mut errors);
        // What is valid so far can only have finalizers, or a beginning of names, that are none of the kind's.
        let metadata = new.metadata();
        if !errors.is_empty() || metadata.finalizers.is_some() || metadata.generate_name.is_some() {
            (0..as_new).for_each(|_| meta::validate(new.metadata(), &T::INFO, checks.known_finalizers, &mut errors));
            for _ in 0..checks.against_old {
                meta::validate_update(new.metadata(), old.metadata(), checks.known_finalizers, &mut errors);
            }
        }
        (1..as_new).for_each(|_| new.validate(&mut errors));
        new.validate_update(&old, at, &mut errors);
        if !errors.is_empty() {
            return Err(Refused::Invalid(errors));
        }
        Ok(Admitted { object: encode(&new)?, warnings: new.warnings(Some(&old)) })
    }

    fn default(&self, object: Value) -> Result<Value, Refused> {
        let mut object: T = decode(object)?;
        object.set_defaults();
        encode(&object)
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        read(object).map(|o: T| o.fields()).unwrap_or_default()
    }

    fn fields_from_bytes(&self, bytes: &[u8]) -> Vec<(&'static str, String)> {
        T::fields_of(bytes)
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        read(object).map(|o: T| o.cells(now)).unwrap_or_default()
    }

    fn cells_from_bytes(&self, bytes: &[u8], now: jiff::Timestamp) -> Vec<Value> {
        T::cells_of(bytes, now)
    }

    fn scale(&self, object: &Value) -> Option<Scale> {
        read(object).ok().and_then(|o: T| o.scale())
    }

    fn with_scale(&self, object: Value, replicas: i32) -> Result<Value, Refused> {
        let mut object: T = decode(object)?;
        object.set_scale(replicas);
        encode(&object)
    }

    fn grace_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        read(object).ok().and_then(|o: T| o.grace_seconds(requested))
    }

    fn to_stored(&self, object: Value) -> Value {
        T::to_stored(object)
    }

    fn from_stored(&self, object: Value) -> Value {
        T::from_stored(object)
    }
}
