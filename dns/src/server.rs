//! Queries in, answers out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
    },
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use parking_lot::RwLock;
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    forward::{ForwardError, Forwarder},
    zone::{Answer, Data, Kind, RangeError, Row, Zone},
};

/// How long the cluster's names may be remembered, in seconds; as CoreDNS has it by default.
const TTL: u32 = 5;
/// Aliases of aliases that are followed.
const DEPTH: usize = 8;
/// A TCP connection without a query for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// What we take by UDP, and send to who says that they take as much.
const MAX_UDP: u16 = 4096;

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address to answer on is not to be had.
    #[error("answer names on {address}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A range of the cluster is none.
    #[error("cluster ranges")]
    Range(#[from] RangeError),
    /// Other names cannot be asked for.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// Listens by UDP and TCP, and says where. The address may appear later; port 0 takes one that is free.
pub fn listen(
    address: SocketAddr,
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
) -> Result<(Server<impl RequestHandler>, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let socket = |address: SocketAddr, kind: socket2::Type| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let udp = socket(address, socket2::Type::DGRAM).and_then(|s| UdpSocket::from_std(s.into())).map_err(failed)?;
    let address = udp.local_addr().map_err(failed)?;
    let tcp = socket(address, socket2::Type::STREAM)
        .and_then(|s| s.listen(128).map(|()| s))
        .and_then(|s| TcpListener::from_std(s.into()))
        .map_err(failed)?;
    let mut server = Server::new(Answers { zone, forwarder, turn: AtomicUsize::new(0) });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, 32);
    Ok((server, address))
}

struct Answers {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    /// Which of several addresses comes first, so that callers spread.
    turn: AtomicUsize,
}

/// An answer on its way out.
#[derive(Default)]
struct Outcome {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additional: Vec<Record>,
}

#[async_trait::async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let outcome = self.outcome(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = outcome.code;
        metadata.authoritative = outcome.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP)).set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &outcome.answers, &outcome.authorities, [], &outcome.additional);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(error = %error, "an answer could not be sent");
                let mut failed = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                failed.response_code = ResponseCode::ServFail;
                ResponseInfo::from(hickory_proto::op::Header { metadata: failed, counts: Default::default() })
            }
        }
    }
}

impl Answers {
    async fn outcome(&self, request: &Request) -> Outcome {
        let refused = |code| Outcome { code, ..Outcome::default() };
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refused(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return refused(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return refused(ResponseCode::Refused);
        }
        let asked = info.query.original().name().to_string();
        self.resolve(asked.trim_end_matches('.'), info.query.query_type()).await
    }

    /// The answer to a query, aliases followed.
    async fn resolve(&self, asked: &str, kind: RecordType) -> Outcome {
        let mut outcome = self.resolve_lower(asked, kind).await;
        // Who asks in capitals is answered in capitals: some compare, to tell an answer from a forged one.
        if let Some(asked) = full(asked) {
            for record in outcome.answers.iter_mut().filter(|r| r.name == asked) {
                record.name = asked.clone();
            }
        }
        outcome
    }

    async fn resolve_lower(&self, asked: &str, kind: RecordType) -> Outcome {
        let mut outcome = Outcome { authoritative: true, ..Outcome::default() };
        let mut name = asked.to_ascii_lowercase();
        for _ in 0..DEPTH {
            let (answer, domain) = {
                let zone = self.zone.read();
                (zone.answer(&name, kind_of(kind)), zone.domain().to_owned())
            };
            match answer {
                Answer::Rows(answers, additional) => {
                    let mut answers: Vec<_> = answers.iter().filter_map(|row| record(row, &domain)).collect();
                    if answers.len() > 1 {
                        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
                        answers.rotate_left(turn);
                    }
                    outcome.answers.extend(answers);
                    outcome.additional.extend(additional.iter().filter_map(|row| record(row, &domain)));
                    return outcome;
                }
                Answer::Alias(from, to) => {
                    outcome.answers.extend(record(&Row { name: from, data: Data::Alias(to.clone()) }, &domain));
                    name = to;
                }
                Answer::NoData | Answer::NoName => {
                    // An alias to a name that is not there is still an answer.
                    if answer == Answer::NoName && outcome.answers.is_empty() {
                        outcome.code = ResponseCode::NXDomain;
                    }
                    outcome.authorities.extend(record(&Row { name: domain.clone(), data: Data::Authority }, &domain));
                    return outcome;
                }
                Answer::Outside => {
                    self.forward(&name, kind, &mut outcome).await;
                    return outcome;
                }
            }
        }
        outcome.code = ResponseCode::ServFail;
        outcome
    }

    async fn forward(&self, name: &str, kind: RecordType, outcome: &mut Outcome) {
        let aliased = !outcome.answers.is_empty();
        outcome.authoritative = aliased;
        let Some(name) = full(name) else {
            outcome.code = ResponseCode::FormErr;
            return;
        };
        let reply = self.forwarder.ask(name, kind).await;
        if !aliased {
            outcome.code = reply.code;
        }
        outcome.answers.extend(reply.answers);
        outcome.authorities.extend(reply.authorities);
    }
}

fn full(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn kind_of(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::SOA => Kind::Soa,
        RecordType::NS => Kind::Ns,
        _ => Kind::Other,
    }
}

fn record(row: &Row, domain: &str) -> Option<Record> {
    let data = match &row.data {
        Data::Address(address) => RData::from(*address),
        Data::Service { weight, port, target } => RData::SRV(SRV::new(0, *weight, *port, full(target)?)),
        Data::Pointer(to) => RData::PTR(PTR(full(to)?)),
        Data::Alias(to) => RData::CNAME(CNAME(full(to)?)),
        Data::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::NameServer(to) => RData::NS(NS(full(to)?)),
        Data::Authority => {
            let (server, mailbox) = (full(&format!("ns.dns.{domain}"))?, full(&format!("hostmaster.{domain}"))?);
            RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL))
        }
    };
    Some(Record::from_rdata(full(&row.name)?, TTL, data))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use hickory_resolver::{
        TokioResolver,
        config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
        net::runtime::TokioRuntimeProvider,
    };
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::zone::Entry;

    fn zone(domain: &str, services: &[(&str, Value)], slices: Value) -> Arc<RwLock<Zone>> {
        let mut zone = Zone::new(domain, &["10.42.0.0/15".to_owned()]).unwrap();
        let slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice> = from_value(slices).unwrap();
        for (name, spec) in services {
            let entry = Entry::of(&from_value(json!({"spec": spec})).unwrap(), slices.iter());
            zone.set_service("default", name, Some(entry));
        }
        Arc::new(RwLock::new(zone))
    }

    fn start(zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> (Server<impl RequestHandler>, SocketAddr) {
        listen("127.0.0.1:0".parse().unwrap(), zone, forwarder).unwrap()
    }

    fn name_server(at: SocketAddr, udp: bool) -> NameServerConfig {
        let mut connection = if udp { ConnectionConfig::udp() } else { ConnectionConfig::tcp() };
        connection.port = at.port();
        NameServerConfig::new(at.ip(), true, vec![connection])
    }

    fn resolver(at: SocketAddr, udp: bool) -> TokioResolver {
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let config = ResolverConfig::from_name_servers(vec![name_server(at, udp)]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().unwrap()
    }

    async fn ask(resolver: &TokioResolver, name: &str, kind: RecordType) -> Vec<String> {
        match resolver.lookup(name, kind).await {
            Ok(found) => {
                let mut lines: Vec<_> =
                    found.answers().iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
                lines.sort();
                lines
            }
            Err(error) => vec![error.to_string().split(" for ").next().unwrap_or_default().to_owned()],
        }
    }

    #[tokio::test]
    async fn names_are_answered_by_udp_and_tcp() {
        let web = json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80}]});
        let (_server, at) = start(zone("cluster.local", &[("web", web)], json!([])), Forwarder::none());
        for udp in [true, false] {
            let resolver = resolver(at, udp);
            let answers = [
                ask(&resolver, "Web.default.svc.Cluster.local.", RecordType::A).await,
                ask(&resolver, "_http._tcp.web.default.svc.cluster.local.", RecordType::SRV).await,
                ask(&resolver, "7.0.43.10.in-addr.arpa.", RecordType::PTR).await,
                ask(&resolver, "nobody.default.svc.cluster.local.", RecordType::A).await,
            ];
            assert_eq!(
                answers,
                [
                    ["web.default.svc.cluster.local. A 10.43.0.7"],
                    ["_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local."],
                    ["7.0.43.10.in-addr.arpa. PTR web.default.svc.cluster.local."],
                    ["DNS error: no records found"],
                ]
            );
        }
    }

    #[tokio::test]
    async fn an_answer_too_large_for_udp_is_had_by_tcp() {
        let endpoints: Vec<_> = (0..200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
        let slices = json!([{"addressType": "IPv4", "endpoints": endpoints}]);
        let (_server, at) =
            start(zone("cluster.local", &[("many", json!({"clusterIP": "None"}))], slices), Forwarder::none());
        let answers = ask(&resolver(at, false), "many.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(answers.len(), 200);
        // By UDP what fits comes, marked as cut short.
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut query = hickory_proto::op::Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(hickory_proto::op::Query::query(full("many.default.svc.cluster.local").unwrap(), RecordType::A));
        socket.send_to(&query.to_vec().unwrap(), at).await.unwrap();
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).await.unwrap();
        let reply = hickory_proto::op::Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!((length <= 512, reply.metadata.truncation), (true, true));
    }

    #[tokio::test]
    async fn other_names_are_asked_for_elsewhere() {
        let there = json!({"clusterIP": "192.0.2.9"});
        let (_upstream, other) = start(zone("example.com", &[("www", there)], json!([])), Forwarder::none());
        let alias = json!({"type": "ExternalName", "externalName": "www.default.svc.example.com"});
        let forwarder = Forwarder::to(vec![name_server(other, true)]).unwrap();
        let (_server, at) = start(zone("cluster.local", &[("away", alias)], json!([])), forwarder);
        let resolver = resolver(at, true);
        let answers = [
            ask(&resolver, "www.default.svc.example.com.", RecordType::A).await,
            ask(&resolver, "away.default.svc.cluster.local.", RecordType::A).await,
            ask(&resolver, "nobody.default.svc.example.com.", RecordType::A).await,
        ];
        assert_eq!(
            answers,
            [
                vec!["www.default.svc.example.com. A 192.0.2.9"],
                vec![
                    "away.default.svc.cluster.local. CNAME www.default.svc.example.com.",
                    "www.default.svc.example.com. A 192.0.2.9"
                ],
                vec!["DNS error: no records found"],
            ]
        );
    }

    /// Asks as it is on the wire; the whole answer.
    async fn exchange(at: SocketAddr, name: &str, kind: RecordType, edns: Option<(u16, u8)>) -> (Message, usize) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
        if let Some((payload, version)) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_version(version);
            query.edns = Some(edns);
        }
        socket.send_to(&query.to_vec().unwrap(), at).await.unwrap();
        let mut buffer = vec![0; 65536];
        let length = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await.unwrap().unwrap();
        (Message::from_vec(&buffer[..length]).unwrap(), length)
    }

    fn authority(message: &Message) -> Vec<(String, u32, u32)> {
        let soa = |r: &Record| match &r.data {
            RData::SOA(soa) => Some((r.name.to_string(), r.ttl, soa.minimum)),
            _ => None,
        };
        message.authorities.iter().filter_map(soa).collect()
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_so_that_it_can_be_remembered() {
        let web = json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80}]});
        let (_server, at) = start(zone("cluster.local", &[("web", web)], json!([])), Forwarder::none());
        let soa = vec![("cluster.local.".to_owned(), TTL, TTL)];
        for (name, kind, code) in [
            ("nobody.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
            ("web.default.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
            ("web.default.svc.cluster.local.", RecordType::MX, ResponseCode::NoError),
        ] {
            let (answer, _) = exchange(at, name, kind, None).await;
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name} {kind}");
            assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
            assert_eq!(authority(&answer), soa, "{name} {kind}");
        }
        let (answer, _) = exchange(at, "wEb.Default.svc.cluster.LOCAL.", RecordType::A, None).await;
        let told: Vec<_> = answer.answers.iter().map(|r| (r.name.to_string(), r.ttl)).collect();
        assert_eq!(told, [("wEb.Default.svc.cluster.LOCAL.".to_owned(), TTL)]);
    }

    #[tokio::test]
    async fn who_can_take_more_by_udp_gets_more() {
        let endpoints: Vec<_> = (0..60).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
        let slices = json!([{"addressType": "IPv4", "endpoints": endpoints}]);
        let (_server, at) =
            start(zone("cluster.local", &[("many", json!({"clusterIP": "None"}))], slices), Forwarder::none());
        let name = "many.default.svc.cluster.local.";
        let (answer, length) = exchange(at, name, RecordType::A, Some((4096, 0))).await;
        assert!(length > 512 && !answer.metadata.truncation && answer.answers.len() == 60, "{length}");
        assert!(answer.edns.is_some());
        let (answer, length) = exchange(at, name, RecordType::A, Some((600, 0))).await;
        assert!(length <= 600 && answer.metadata.truncation, "{length}");
        let (answer, _) = exchange(at, name, RecordType::A, Some((4096, 1))).await;
        // On the wire BADVERS and BADSIG are the same.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    }

    #[tokio::test]
    async fn a_resolver_that_fails_is_passed_over() {
        let there = json!({"clusterIP": "192.0.2.9"});
        let (_upstream, other) = start(zone("example.com", &[("www", there)], json!([])), Forwarder::none());
        // One that never answers, and one whose port is closed.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let name = "www.default.svc.example.com.";
        for bad in [silent.local_addr().unwrap(), closed] {
            let forwarder = Forwarder::to(vec![name_server(bad, true), name_server(other, true)]).unwrap();
            let (_server, at) = start(zone("cluster.local", &[], json!([])), forwarder);
            let (answer, _) = exchange(at, name, RecordType::A, None).await;
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "{bad}");
        }
        // Nobody answers: the asker is told, and need not find out by waiting.
        let forwarder = Forwarder::to(vec![name_server(silent.local_addr().unwrap(), true)]).unwrap();
        let (_server, at) = start(zone("cluster.local", &[], json!([])), forwarder);
        let (answer, _) = exchange(at, name, RecordType::A, None).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
}
