//! Session affinity: which requests belong together, and which pod they go to while it has room.
//!
//! Pure. The choice needs no state: of all pods with room a session takes the one with the highest
//! score, so a pod that comes or goes moves only its own sessions, and all activators that see the
//! same pods choose the same. Of a split the client remembers the part that it was given: in the
//! cookie, or in the name of its MCP session. Pods are the exception with MCP, for there the app makes
//! the session: what its responses said is remembered, within bounds. Upstream has nothing of the kind (knative/serving#8160).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::hmac;

use crate::picker::Candidate;

/// The cookie of a session.
const COOKIE: &str = "pilotlight-session";
/// The header in which MCP names a session.
static MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// MCP sessions that are remembered for one revision; the oldest are forgotten first.
pub const MAX_SESSIONS: usize = 10_000;
/// Between an MCP session's name and the part of a split that it belongs to.
const PART: &str = ".pilotlight-";
/// A part, in hexadecimal.
const PART_LENGTH: usize = 16;
/// A pod without a limit may have so many percent of the average before a session goes elsewhere.
const LOAD_PERCENT: usize = 125;
/// So many requests a pod without a limit may have whatever the average, or the few requests that
/// one page sends at once would be torn apart while there is little to do.
const ALWAYS_ROOM: usize = 32;
/// The longest cookie value that is looked at: two numbers and the signature, in hexadecimal.
const COOKIE_LENGTH: usize = 32 + 1 + 16 + 1 + 64;

/// How sessions are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// By a signed cookie of ours.
    Cookie,
    /// By the value of a header.
    Header(HeaderName),
    /// By `Mcp-Session-Id`, which the app gives out.
    Mcp,
}

/// An annotation that names no way to tell sessions apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected cookie, mcp or header:<name>")]
pub struct InvalidAffinity;

/// A request's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of its id.
    pub key: u64,
    /// The pod that is known to have it.
    pub pod: Option<SocketAddr>,
    /// Whether no other pod will do for as long as that one is listed.
    pub only: bool,
}

/// Signs cookies, so that nobody can choose a pod.
#[derive(Debug)]
pub struct Signer {
    key: hmac::Key,
}

/// What a cookie of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    id: u128,
    /// The part of a split that the client was given; 0 where there was none.
    pub part: u64,
}

/// Where the MCP sessions are that were seen last, within a bound.
#[derive(Debug)]
pub struct McpSessions<T> {
    limit: usize,
    places: HashMap<u64, T>,
    /// Oldest first.
    order: VecDeque<u64>,
}

// === impl Session ===

impl Session {
    /// At the pod that is known to have it, while that has room.
    pub const fn new(key: u64, pod: Option<SocketAddr>) -> Self {
        let only = false;
        Self { key, pod, only }
    }

    /// At this pod, as soon as that has a slot.
    pub const fn only_at(key: u64, pod: SocketAddr) -> Self {
        Self {
            key,
            pod: Some(pod),
            only: true,
        }
    }
}

// === impl Affinity ===

impl Affinity {
    /// `cookie`, `mcp` or `header:<name>`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidAffinity> {
        match text.split_once(':') {
            None if text == "cookie" => Ok(Self::Cookie),
            None if text == "mcp" => Ok(Self::Mcp),
            Some(("header", name)) => HeaderName::try_from(name.trim())
                .map(Self::Header)
                .map_err(|_| InvalidAffinity),
            _ => Err(InvalidAffinity),
        }
    }

    /// The key of a request's session, if it has one.
    pub fn key(&self, headers: &HeaderMap, signer: &Signer) -> Option<u64> {
        match self {
            Self::Cookie => signer.ticket(headers).map(Ticket::key),
            Self::Header(name) => named(headers, name),
            Self::Mcp => mcp_key(headers),
        }
    }
}

/// The key of the MCP session that a request or a response names.
pub fn mcp_key(headers: &HeaderMap) -> Option<u64> {
    named(headers, &MCP_SESSION)
}

/// Adds the part of a split to the name of the MCP session that a response says, if it says one: any
/// gateway reads there where the session belongs, and clients take the name for one that means
/// nothing.
pub fn mark_mcp(headers: &mut HeaderMap, part: u64) {
    let Some(name) = headers.get(&MCP_SESSION).filter(|name| !name.is_empty()) else {
        return;
    };
    let marked = [name.as_bytes(), format!("{PART}{part:016x}").as_bytes()].concat();
    // What is added can be sent; so can the rest, which was.
    if let Ok(marked) = HeaderValue::from_bytes(&marked) {
        headers.insert(&MCP_SESSION, marked);
    }
}

/// The part that a request's MCP session belongs to, if a gateway of ours has added one.
pub fn mcp_part(headers: &HeaderMap) -> Option<u64> {
    marked_mcp(headers).map(|(_, part)| part)
}

/// Makes the name of a request's MCP session the one that the app gave it.
pub fn unmark_mcp(headers: &mut HeaderMap) {
    let name = marked_mcp(headers).and_then(|(name, _)| HeaderValue::from_bytes(name).ok());
    if let Some(name) = name {
        headers.insert(&MCP_SESSION, name);
    }
}

/// The app's name of the session, and the part.
fn marked_mcp(headers: &HeaderMap) -> Option<(&[u8], u64)> {
    let value = headers.get(&MCP_SESSION)?.as_bytes();
    let (name, mark) =
        value.split_at_checked(value.len().checked_sub(PART.len() + PART_LENGTH)?)?;
    let digits = std::str::from_utf8(mark.strip_prefix(PART.as_bytes())?).ok()?;
    // It takes a sign, too.
    let is_part = !name.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_part.then_some(())?;
    Some((name, u64::from_str_radix(digits, 16).ok()?))
}

fn named(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let value = headers.get(name)?;
    (!value.is_empty()).then(|| hash(value.as_bytes()))
}

// === impl Ticket ===

impl Ticket {
    /// A new session.
    pub const fn new(id: u128) -> Self {
        Self { id, part: 0 }
    }

    /// The same session, at another part of a split.
    #[must_use]
    pub const fn at(self, part: u64) -> Self {
        Self { part, ..self }
    }

    /// What pods are chosen by.
    pub fn key(self) -> u64 {
        hash(&self.id.to_be_bytes())
    }

    fn text(self) -> String {
        format!("{:032x}.{:016x}", self.id, self.part)
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, part) = text.split_once('.')?;
        Some(Self {
            id: u128::from_str_radix(id, 16).ok()?,
            part: u64::from_str_radix(part, 16).ok()?,
        })
    }
}

// === impl Signer ===

impl Signer {
    /// All activators of a cluster need the same secret, or a session that meets another one starts
    /// anew.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The first cookie that is signed by us.
    pub fn ticket(&self, headers: &HeaderMap) -> Option<Ticket> {
        let mut lines = headers.get_all(header::COOKIE).iter();
        lines.find_map(|line| self.ticket_of(line))
    }

    /// That of one line.
    pub fn ticket_of(&self, line: &HeaderValue) -> Option<Ticket> {
        let cookies = line.to_str().ok()?.split(';');
        cookies
            .filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
            .filter(|value| value.len() == COOKIE_LENGTH)
            .find_map(|value| {
                let (text, tag) = value.rsplit_once('.')?;
                hmac::verify(&self.key, text.as_bytes(), &from_hex(tag)?).ok()?;
                Ticket::parse(text)
            })
    }

    /// `name=value` as a client sends it back.
    pub fn pair(&self, ticket: Ticket) -> HeaderValue {
        HeaderValue::try_from(self.signed(ticket)).expect("visible characters")
    }

    /// The cookie by which the client will name the session until it is closed.
    pub fn cookie(&self, ticket: Ticket) -> HeaderValue {
        let cookie = format!("{}; Path=/; HttpOnly; SameSite=Lax", self.signed(ticket));
        HeaderValue::try_from(cookie).expect("visible characters")
    }

    fn signed(&self, ticket: Ticket) -> String {
        let text = ticket.text();
        let tag = hmac::sign(&self.key, text.as_bytes());
        let tag: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{COOKIE}={text}.{tag}")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    (0..bytes.len() / 2).map(pair).collect()
}

// === impl McpSessions ===

impl<T: Copy> McpSessions<T> {
    /// Remembers at most `limit` sessions.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            places: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Where a session is.
    pub fn place(&self, key: u64) -> Option<T> {
        self.places.get(&key).copied()
    }

    /// A response named a session.
    pub fn learn(&mut self, key: u64, place: T) {
        if self.places.insert(key, place).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

/// What a pod must tell besides.
pub trait Place: Candidate {
    /// Where it is.
    fn address(&self) -> SocketAddr;
    /// The same for all activators.
    fn hash(&self) -> u64;
    /// Whether it executes any number of requests at once.
    fn is_unlimited(&self) -> bool;
}

/// The pod for a session: the one that has it, or the one with the highest score, of those with
/// room. `None` when no pod has room; then any policy may be asked.
pub fn choose<'a, P: Place + 'a>(
    pods: impl Iterator<Item = &'a P> + Clone,
    session: Session,
) -> Option<&'a P> {
    let (count, busy) = pods.clone().fold((0, 0), |(count, busy), pod| {
        (count + 1, busy + pod.weight() as usize)
    });
    let share = ((busy + 1) * LOAD_PERCENT).div_ceil(100 * count.max(1));
    let most = share.max(ALWAYS_ROOM);
    let has_room = |pod: &&P| {
        pod.has_free_slot()
            && !pod.is_ramping()
            && (!pod.is_unlimited() || (pod.weight() as usize) < most)
    };
    let mut with_room = pods.filter(has_room);
    if let Some(known) = session.pod
        && let Some(pod) = with_room.clone().find(|pod| pod.address() == known)
    {
        return Some(pod);
    }
    let first = with_room.next()?;
    Some(with_room.fold(first, |best, pod| {
        let score = |pod: &P| score(session.key, pod);
        if score(pod) > score(best) { pod } else { best }
    }))
}

/// The pod with the highest score for a session, of those that have not been asked for it.
pub fn next_to_ask<'a, P: Place + 'a>(
    pods: impl Iterator<Item = &'a P>,
    key: u64,
    asked: &[SocketAddr],
) -> Option<SocketAddr> {
    pods.filter(|pod| !asked.contains(&pod.address()))
        .max_by_key(|pod| score(key, *pod))
        .map(Place::address)
}

fn score<P: Place>(key: u64, pod: &P) -> u64 {
    mix(key ^ pod.hash())
}

/// FNV-1a, mixed: the same everywhere, and no secret.
pub fn hash(bytes: &[u8]) -> u64 {
    let offset = 0xcbf2_9ce4_8422_2325;
    let hash = bytes.iter().fold(offset, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// The finalizer of SplitMix64: every bit of the input changes half of those of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Pod {
        address: SocketAddr,
        used: u32,
        limit: u32,
    }

    impl Candidate for Pod {
        fn has_free_slot(&self) -> bool {
            self.used < self.limit
        }
        fn weight(&self) -> u32 {
            self.used
        }
    }

    impl Place for Pod {
        fn address(&self) -> SocketAddr {
            self.address
        }
        fn hash(&self) -> u64 {
            hash(self.address.to_string().as_bytes())
        }
        fn is_unlimited(&self) -> bool {
            self.limit == u32::MAX
        }
    }

    fn pods(count: u8, limit: u32) -> Vec<Pod> {
        let pod = |last| Pod {
            address: SocketAddr::from(([10, 0, 0, last], 8012)),
            used: 0,
            limit,
        };
        (1..=count).map(pod).collect()
    }

    fn chosen(pods: &[Pod], key: u64) -> SocketAddr {
        choose(pods.iter(), Session::new(key, None))
            .unwrap()
            .address
    }

    #[test]
    fn annotations() {
        assert_eq!(Affinity::parse("cookie"), Ok(Affinity::Cookie));
        assert_eq!(Affinity::parse("mcp"), Ok(Affinity::Mcp));
        let header = Affinity::Header(HeaderName::from_static("x-user"));
        assert_eq!(Affinity::parse("header:X-User"), Ok(header));
        for bad in ["", "header", "header:", "header:a b", "ip"] {
            assert!(Affinity::parse(bad).is_err(), "{bad}");
        }
    }

    /// Sessions are spread, and a pod that goes takes only its own with it.
    #[test]
    fn little_moves() {
        let all = pods(10, u32::MAX);
        let keys: Vec<u64> = (0..2_000u64).map(|at| hash(&at.to_be_bytes())).collect();
        let mut counts = HashMap::<_, usize>::new();
        for key in &keys {
            *counts.entry(chosen(&all, *key)).or_default() += 1;
        }
        assert_eq!(counts.len(), 10);
        assert!(
            counts.values().all(|count| (120..300).contains(count)),
            "{counts:?}"
        );
        let fewer = &all[..9];
        let gone = all[9].address;
        for key in &keys {
            let before = chosen(&all, *key);
            if before != gone {
                assert_eq!(chosen(fewer, *key), before);
            }
        }
    }

    /// A hot session neither breaks a limit nor takes much more than its share.
    #[test]
    fn load_is_bounded() {
        let key = 7;
        let mut limited = pods(3, 2);
        for _ in 0..6 {
            let pod = chosen(&limited, key);
            limited
                .iter_mut()
                .find(|it| it.address == pod)
                .unwrap()
                .used += 1;
        }
        assert!(choose(limited.iter(), Session::new(key, None)).is_none());
        assert!(limited.iter().all(|it| it.used == 2));
        let mut unlimited = pods(4, u32::MAX);
        for _ in 0..400 {
            let pod = chosen(&unlimited, key);
            unlimited
                .iter_mut()
                .find(|it| it.address == pod)
                .unwrap()
                .used += 1;
        }
        assert!(unlimited.iter().all(|it| it.used <= 126), "{unlimited:?}");
        // Little enough stays together.
        let mut few = pods(4, u32::MAX);
        let first = chosen(&few, key);
        for _ in 0..ALWAYS_ROOM {
            assert_eq!(chosen(&few, key), first);
            few.iter_mut().find(|it| it.address == first).unwrap().used += 1;
        }
        assert_ne!(chosen(&few, key), first);
    }

    #[test]
    fn cookies_are_signed() {
        let (signer, other) = (Signer::new(b"secret"), Signer::new(b"other"));
        let ticket = Ticket::new(42).at(7);
        let cookie = signer.cookie(ticket);
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        assert_eq!(signer.pair(ticket), pair);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_str(value).unwrap());
            headers
        };
        let headers = with(&format!("a=b; {pair}; c=d"));
        assert_eq!(signer.ticket(&headers), Some(ticket));
        assert_eq!(Affinity::Cookie.key(&headers, &signer), Some(ticket.key()));
        // The part of a split says nothing about the pod.
        assert_eq!(ticket.key(), Ticket::new(42).key());
        assert_eq!(Affinity::Cookie.key(&headers, &other), None);
        let forged = pair.replacen('0', "1", 1);
        assert_eq!(signer.ticket(&with(&forged)), None);
        // A forged one in front does not hide ours.
        let both = with(&format!("{forged}; {pair}"));
        assert_eq!(signer.ticket(&both), Some(ticket));
        let long = format!("{pair}0");
        for bad in [
            "pilotlight-session=",
            "pilotlight-session=a.b.c",
            "pilotlight-session",
            &long,
            &long[..long.len() - 2],
        ] {
            assert_eq!(signer.ticket(&with(bad)), None, "{bad}");
        }
    }

    /// A gateway's clients see a name with the part of a split, apps their own name.
    #[test]
    fn names_of_mcp_sessions_carry_a_part() {
        let with = |name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&MCP_SESSION, HeaderValue::try_from(name).unwrap());
            headers
        };
        for part in [1, 0xc0ffee, u64::MAX] {
            let mut headers = with("a.b-c");
            mark_mcp(&mut headers, part);
            assert_eq!(mcp_part(&headers), Some(part));
            unmark_mcp(&mut headers);
            assert_eq!(headers, with("a.b-c"));
        }
        for other in [
            "",
            "a",
            ".pilotlight-0123456789abcdef",
            "a.pilotlight-0123456789abcde",
            "a.pilotlight-+123456789abcdef",
            "a.pilotlight-0123456789abcdeg",
            "a.pilotlight_0123456789abcdef",
            "a.pilotlight-0123456789abcdef0",
        ] {
            let mut headers = with(other);
            assert_eq!(mcp_part(&headers), None, "{other}");
            unmark_mcp(&mut headers);
            assert_eq!(headers, with(other));
        }
        for mut unnamed in [HeaderMap::new(), with("")] {
            let before = unnamed.clone();
            mark_mcp(&mut unnamed, 1);
            assert_eq!(unnamed, before);
        }
        // Bytes that are no text stay as they are.
        let mut headers = HeaderMap::new();
        let name = HeaderValue::from_bytes(b"\xff").unwrap();
        headers.insert(&MCP_SESSION, name.clone());
        mark_mcp(&mut headers, 1);
        assert_eq!(mcp_part(&headers), Some(1));
        unmark_mcp(&mut headers);
        assert_eq!(headers[&MCP_SESSION], name);
    }

    /// What an app said of a session counts, while its pod has room; beyond the bound the oldest are
    /// forgotten.
    #[test]
    fn mcp_sessions() {
        let pods = pods(3, 1);
        let mut sessions = McpSessions::new(MAX_SESSIONS);
        for pod in &pods {
            sessions.learn(1, pod.address);
            let session = Session::new(1, sessions.place(1));
            assert_eq!(choose(pods.iter(), session).unwrap().address, pod.address);
        }
        let gone = Session::new(1, Some(SocketAddr::from(([10, 9, 9, 9], 8012))));
        assert!(choose(pods.iter(), gone).is_some());
        for key in 2..=MAX_SESSIONS as u64 {
            sessions.learn(key, pods[0].address);
        }
        assert!(sessions.place(1).is_some());
        sessions.learn(0, pods[0].address);
        assert_eq!(sessions.place(1), None);
        assert_eq!(sessions.places.len(), MAX_SESSIONS);
        assert_eq!(sessions.order.len(), MAX_SESSIONS);
    }
}
