//! The harness against a small S3 of its own: what it sends, what it counts, and what it must notice.

use super::*;
use crate::credentials::{ACCESS_KEY_VARIABLE, Credentials, SECRET_KEY_VARIABLE};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every so many-th GET has a wrong last byte.
    FlipByte(u64),
    /// DELETE answers well and does nothing.
    KeepDeleted,
    /// PUT of a key that is there answers well and does nothing.
    KeepOld,
    /// Listings leave out one key.
    ForgetInListings,
    /// Every so many-th request is answered with 503.
    SlowDown(u64),
    /// Every so many-th connection is closed within an answer.
    HangUp(u64),
    /// Every answer but the bucket's takes for ever.
    Silence,
    /// Answers the PUT before its body has come, and closes.
    RefuseEarly,
}

struct Model {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    fault: Fault,
    chunked: bool,
    requests: AtomicU64,
    credentials: Credentials,
}

struct Server {
    address: SocketAddr,
    model: Arc<Model>,
}

const PAGE_MAX: usize = 1000;

impl Server {
    fn start(fault: Fault) -> Server {
        Server::start_with(fault, false)
    }

    fn start_with(fault: Fault, chunked: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let credentials = Credentials { access_key: "root".to_owned(), secret_key: "root-secret".to_owned() };
        let model =
            Model { objects: Mutex::default(), fault, chunked, requests: AtomicU64::new(0), credentials };
        let model = Arc::new(model);
        let shared = model.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let model = shared.clone();
                std::thread::spawn(move || model.serve(socket.unwrap()));
            }
        });
        Server { address, model }
    }

    fn keys(&self) -> Vec<String> {
        self.model.objects.lock().unwrap().keys().cloned().collect()
    }

    /// Runs the command line against this server; its exit and its JSON.
    fn bench(&self, flags: &str) -> (Result<bool, String>, serde_json::Value) {
        let endpoint = format!("--endpoint=http://{}", self.address);
        let words = ["bucketsbench", "--json", &endpoint].into_iter().chain(flags.split_whitespace());
        let raw: Vec<OsString> = words.map(OsString::from).collect();
        let cli = Cli::try_parse_from(&raw).unwrap();
        let mut out = Vec::new();
        let result = cli.run(&raw, env, &mut out).map_err(|error| error.to_string());
        (result, serde_json::from_slice(&out).unwrap_or_default())
    }

    /// As `bench`, where everything must be well.
    fn clean(&self, flags: &str) -> serde_json::Value {
        let (result, report) = self.bench(flags);
        assert_eq!(result, Ok(true), "{flags}: {report:#}");
        report["jobs"][0].clone()
    }
}

fn env(name: &str) -> Option<String> {
    match name {
        ACCESS_KEY_VARIABLE => Some("root".to_owned()),
        SECRET_KEY_VARIABLE => Some("root-secret".to_owned()),
        _ => None,
    }
}

impl Model {
    fn serve(&self, mut socket: TcpStream) -> Option<()> {
        let mut input = Vec::new();
        loop {
            let head_len = loop {
                match memchr::memmem::find(&input, b"\r\n\r\n") {
                    Some(at) => break at + 4,
                    None => receive(&mut socket, &mut input)?,
                }
            };
            let head = String::from_utf8(input[..head_len].to_vec()).unwrap();
            let header = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.map(str::to_owned)
            };
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
            let serial = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let key = path.splitn(3, '/').nth(2).unwrap_or("").to_owned();
            if self.fault == Fault::RefuseEarly && method == "PUT" && !key.is_empty() {
                let answer = "HTTP/1.1 503 Slow Down\r\ncontent-length: 35\r\n\r\n<Error><Code>SlowDown</Code></Error>";
                let _ = socket.write_all(answer.as_bytes());
                return None;
            }
            while input.len() < head_len + length {
                receive(&mut socket, &mut input)?;
            }
            let body = input[head_len..head_len + length].to_vec();
            input.drain(..head_len + length);
            self.check_signature(
                &method,
                path,
                query,
                &header("host")?,
                &header("authorization"),
                &body,
                &header,
            );
            let every = |nth: u64| serial.is_multiple_of(nth) && !key.is_empty();
            match self.fault {
                Fault::Silence if !key.is_empty() => {
                    while receive(&mut socket, &mut input).is_some() {}
                    return None;
                }
                Fault::HangUp(nth) if every(nth) => {
                    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc").ok()?;
                    return None;
                }
                _ => {}
            }
            let (status, body) = match self.fault {
                Fault::SlowDown(nth) if every(nth) => (503, b"<Error><Code>SlowDown</Code></Error>".to_vec()),
                _ => self.answer(&method, &key, query, header("range"), body, serial),
            };
            let mut answer = format!("HTTP/1.1 {status} X\r\n").into_bytes();
            if self.chunked && method != "HEAD" && status != 204 {
                answer.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for piece in body.chunks(1000) {
                    answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    answer.extend_from_slice(piece);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
            } else {
                if status != 204 {
                    answer.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
                }
                answer.extend_from_slice(b"\r\n");
                answer.extend_from_slice(if method == "HEAD" { b"" } else { &body });
            }
            socket.write_all(&answer).ok()?;
        }
    }

    /// Signs the request again with the plain signer, as far as that one knows bodies.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn check_signature(
        &self,
        method: &str,
        path: &str,
        query: &str,
        host: &str,
        authorization: &Option<String>,
        body: &[u8],
        header: &dyn Fn(&str) -> Option<String>,
    ) {
        use sha2::Digest;
        let Some(authorization) = authorization else { return };
        let payload = header("x-amz-content-sha256").unwrap();
        if payload == "UNSIGNED-PAYLOAD" {
            return;
        }
        assert_eq!(payload, hex::encode(sha2::Sha256::digest(body)));
        let decode = |text: &str| text.replace("%2F", "/").replace("%20", " ");
        let pairs: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let date = header("x-amz-date").unwrap();
        let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
        let now = time::PrimitiveDateTime::parse(&date, format).unwrap().assume_utc();
        let request = crate::sigv4::Request { method, host, path, query: &pairs, body };
        let signed = crate::sigv4::sign(&request, &self.credentials, "us-east-1", now);
        assert_eq!(*authorization, signed.headers[2].1);
    }

    fn answer(
        &self,
        method: &str,
        key: &str,
        query: &str,
        range: Option<String>,
        body: Vec<u8>,
        serial: u64,
    ) -> (u16, Vec<u8>) {
        let mut objects = self.objects.lock().unwrap();
        let missing = || (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec());
        match method {
            "PUT" if key.is_empty() => (200, Vec::new()),
            "PUT" => {
                if self.fault != Fault::KeepOld || !objects.contains_key(key) {
                    objects.insert(key.to_owned(), body);
                }
                (200, Vec::new())
            }
            "DELETE" => {
                if self.fault != Fault::KeepDeleted {
                    objects.remove(key);
                }
                (204, Vec::new())
            }
            "GET" if key.is_empty() => (200, self.list(&objects, query)),
            _ => {
                let Some(object) = objects.get(key) else { return missing() };
                let mut object = object.clone();
                if let Fault::FlipByte(nth) = self.fault
                    && serial.is_multiple_of(nth)
                {
                    *object.last_mut().unwrap() ^= 1;
                }
                match range {
                    None => (200, object),
                    Some(range) => {
                        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                        (206, object[from.parse().unwrap()..=to.parse().unwrap()].to_vec())
                    }
                }
            }
        }
    }

    fn list(&self, objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Vec<u8> {
        let query: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, value.replace("%2F", "/")))
            .collect();
        let after = query.get("continuation-token").or(query.get("start-after")).cloned().unwrap_or_default();
        let max: usize = query["max-keys"].parse::<usize>().unwrap().min(PAGE_MAX);
        let matching = objects.keys().filter(|key| key.starts_with(&query["prefix"]) && **key > after);
        let skip = usize::from(self.fault == Fault::ForgetInListings);
        let keys: Vec<&String> = matching.skip(skip).take(max + 1).collect();
        let page = &keys[..keys.len().min(max)];
        let contents: String =
            page.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
        let more = keys.len() > max;
        let token = page.last().filter(|_| more);
        let token = token.map(|key| format!("<NextContinuationToken>{key}</NextContinuationToken>"));
        let token = token.unwrap_or_default();
        format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{contents}</ListBucketResult>")
            .into_bytes()
    }
}

fn receive(socket: &mut TcpStream, input: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 65536];
    match socket.read(&mut buffer) {
        Ok(0) | Err(_) => None,
        Ok(read) => {
            input.extend_from_slice(&buffer[..read]);
            Some(())
        }
    }
}

#[test]
fn every_operation_runs_verified_and_is_counted_exactly() {
    for chunked in [false, true] {
        let server = Server::start_with(Fault::None, chunked);
        for (rw, action) in [
            ("put", "put"),
            ("get", "get"),
            ("head", "head"),
            ("list", "list"),
            ("walk", "list"),
            ("delete", "delete"),
        ] {
            let flags = format!(
                "--rw {rw} --ops 300 --objects 300 --size 1KiB-3KiB --iodepth 3 --numjobs 2 --verify --page-keys 70"
            );
            let report = server.clean(&flags);
            let counted = &report["operations"][action];
            assert_eq!(counted["count"], 300, "{rw}: {report:#}");
            let bytes = counted["bytes"].as_u64().unwrap();
            match rw {
                "put" | "get" => assert!((300 * 1024..=300 * 3072).contains(&bytes), "{rw}: {bytes}"),
                "list" | "walk" => assert!(counted["keys_per_second"].as_f64().unwrap() > 1.0),
                _ => assert_eq!(bytes, 0, "{rw}"),
            }
            let latency = &counted["latency_us"];
            assert!(
                latency["p50"].as_f64() > Some(1.0) && latency["p50"].as_f64() <= latency["max"].as_f64()
            );
            assert!(report["client"]["cpu_us_per_operation"].as_f64() > Some(0.1));
        }
        assert_eq!(server.keys(), Vec::<String>::new(), "delete took all");
    }
}

#[test]
fn what_is_signed_is_what_is_sent() {
    let server = Server::start(Fault::None);
    for rw in ["put", "get", "head", "list", "walk", "delete"] {
        server.clean(&format!(
            "--rw {rw} --ops 20 --objects 20 --sign payload --iodepth 2 --verify --page-keys 7"
        ));
    }
    server.clean("--rw put --ops 5 --size 3MiB --sign payload");
}

#[test]
fn large_bodies_go_and_come_whole_on_many_connections() {
    let server = Server::start(Fault::None);
    server.clean("--rw put --ops 24 --objects 12 --size 5000001-9MiB --iodepth 8");
    let report =
        server.clean("--rw get --ops 50 --objects 12 --size 5000001-9MiB --iodepth 8 --prepare=no --verify");
    assert!(report["operations"]["get"]["bytes"].as_u64() > Some(50 * 5_000_000));
    server.clean("--rw get --ops 50 --objects 12 --size 5000001-9MiB --prepare=no --verify --range 1MiB");
    let unread =
        server.clean("--rw get --ops 50 --objects 12 --size 5000001-9MiB --iodepth 8 --prepare=no --discard");
    assert_eq!(unread["operations"]["get"]["bytes"], report["operations"]["get"]["bytes"]);
}

#[test]
fn a_mixed_workload_finds_what_each_connection_left() {
    let server = Server::start(Fault::None);
    let mix = "--mix get=40,put=30,head=5,list=5,delete=20";
    let report = server.clean(&format!(
        "--rw mixed {mix} --ops 3000 --objects 100 --iodepth 4 --numjobs 2 --size 1-2KiB --verify"
    ));
    for action in ["get", "put", "head", "list", "delete"] {
        assert!(report["operations"][action]["count"].as_u64() > Some(50), "{report:#}");
    }
}

#[test]
fn wrong_answers_are_noticed() {
    let mixed = "--rw mixed --mix get=40,put=40,delete=20 --ops 500 --objects 20";
    for (fault, flags) in [
        (Fault::FlipByte(50), "--rw get --ops 500 --objects 100"),
        (Fault::FlipByte(50), "--rw get --ops 500 --objects 100 --range 4KiB"),
        (Fault::KeepDeleted, mixed),
        (Fault::KeepOld, mixed),
        (Fault::ForgetInListings, "--rw list --ops 20 --objects 100 --page-keys 10"),
        (Fault::ForgetInListings, "--rw walk --ops 20 --objects 100 --page-keys 10"),
    ] {
        let server = Server::start(fault);
        let (result, report) = server.bench(&format!("{flags} --verify --iodepth 2"));
        assert_eq!(result, Ok(false), "{fault:?} {flags}");
        let job = &report["jobs"][0];
        assert!(job["wrong_answers"].as_u64() > Some(0), "{fault:?}: {job:#}");
        assert_eq!(job["wrong_answers"], job["errors"]["wrong answer"]);
        assert!(job["wrong_answer_examples"][0].as_str().unwrap().contains("bucketsbench/4-KiB/"));
    }
}

#[test]
fn refused_requests_are_counted_by_code_and_left_out_of_the_rates() {
    let server = Server::start(Fault::SlowDown(10));
    let (result, report) = server.bench("--rw get --ops 500 --objects 50 --iodepth 4 --verify");
    assert_eq!(result, Ok(false));
    let job = &report["jobs"][0];
    let (good, refused) = (&job["operations"]["get"]["count"], &job["errors"]["503 SlowDown"]);
    assert_eq!(good.as_u64().unwrap() + refused.as_u64().unwrap(), 500, "{job:#}");
    assert!((40..=60).contains(&refused.as_u64().unwrap()));
    assert_eq!(job["wrong_answers"], 0);
}

#[test]
fn broken_connections_are_counted_and_opened_again() {
    let server = Server::start(Fault::HangUp(50));
    let (result, report) = server.bench("--rw head --ops 300 --objects 20 --iodepth 2 --seed 3");
    // Half an answer to a HEAD is bytes after its end, or the connection's.
    assert_eq!(result, Ok(false), "{report:#}");
    let server = Server::start(Fault::HangUp(50));
    let (result, report) = server.bench("--rw get --ops 300 --objects 20 --iodepth 2");
    assert_eq!(result, Ok(false));
    let job = &report["jobs"][0];
    let (good, broken) = (&job["operations"]["get"]["count"], &job["errors"]["connection closed"]);
    assert_eq!(good.as_u64().unwrap() + broken.as_u64().unwrap(), 300, "{job:#}");
    assert!(broken.as_u64() > Some(3) && job["reconnects"].as_u64() > Some(3));
}

#[test]
fn a_server_that_says_nothing_costs_a_timeout_not_for_ever() {
    let server = Server::start(Fault::Silence);
    let began = Instant::now();
    let (result, report) = server.bench("--rw get --prepare=no --ops 6 --timeout 300ms --iodepth 2");
    assert_eq!(result, Ok(false));
    assert_eq!(report["jobs"][0]["errors"]["timeout"], 6, "{report:#}");
    assert!(began.elapsed().as_millis() >= 900);
}

#[test]
fn an_answer_that_comes_before_the_body_has_gone_is_a_refusal() {
    let server = Server::start(Fault::RefuseEarly);
    let (result, report) = server.bench("--rw put --ops 5 --size 8MiB");
    assert_eq!(result, Ok(false));
    let errors = report["jobs"][0]["errors"].as_object().unwrap();
    assert_eq!(errors.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 5, "{report:#}");
}

#[test]
fn a_runtime_is_kept_and_warm_up_is_left_out() {
    let server = Server::start(Fault::None);
    let began = Instant::now();
    let report = server.clean("--rw head --objects 10 --runtime 2s --warmup 500ms");
    assert!(began.elapsed().as_secs_f64() >= 2.5);
    assert_eq!(report["measured_seconds"], 2.0);
    let by_second = report["operations_by_second"].as_array().unwrap();
    assert!((1..=3).contains(&by_second.len()), "{report:#}");
    assert!(report["operations"]["head"]["count"].as_u64() > Some(0));
}

#[test]
fn jobs_of_a_file_share_their_key_space_and_clean_up_after_themselves() {
    let server = Server::start(Fault::None);
    let file = tempfile::NamedTempFile::new().unwrap();
    let text =
        "[global]\nops=20\nobjects=40\n[a]\nrw=get\n[b]\nrw=head\n[c]\nrw=list\ncleanup\npage-keys=10\n";
    std::fs::write(file.path(), text).unwrap();
    let (result, report) = server.bench(file.path().to_str().unwrap());
    assert_eq!(result, Ok(true), "{report:#}");
    assert_eq!(report["jobs"].as_array().unwrap().len(), 3);
    // Three buckets made, one key space put, three jobs, one key space deleted.
    assert_eq!(server.model.requests.load(Ordering::Relaxed), 3 + 40 + 3 * 20 + 40);
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[test]
fn the_servers_process_is_looked_at() {
    let server = Server::start(Fault::None);
    let report =
        server.clean(&format!("--rw put --runtime 1s --warmup 0s --server-pid {}", std::process::id()));
    let process = &report["servers"][0];
    assert!(process["cpu_us_per_operation"].as_f64() > Some(0.1), "{report:#}");
    assert!(process["cpu_seconds_per_gb"].as_f64() > Some(0.0));
    assert!(process["resident_bytes"].as_u64() > Some(1 << 20));
    let (result, _) = server.bench("--rw put --ops 1 --server-pid 4294967295");
    assert!(result.unwrap_err().contains("process id"));
}

#[test]
fn a_report_for_people_says_the_same() {
    let server = Server::start(Fault::SlowDown(7));
    let endpoint = format!("--endpoint=http://{}", server.address);
    let raw = ["bucketsbench", &endpoint, "--rw=get", "--ops=100", "--objects=10"].map(OsString::from);
    let mut out = Vec::new();
    assert!(!Cli::try_parse_from(&raw).unwrap().run(&raw, env, &mut out).unwrap());
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("get: get, 10 keys, 4 KiB, 1 connection, 100 operations"), "{text}");
    for part in ["ops/s", "p99.9 us", "client: ", "ERROR 503 SlowDown: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn without_a_server_there_is_one_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("--endpoint=http://{}", listener.local_addr().unwrap());
    drop(listener);
    let raw = ["bucketsbench", &endpoint].map(OsString::from);
    let error = Cli::try_parse_from(&raw).unwrap().run(&raw, env, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("is the server running there?"));
}

#[test]
fn the_null_server_answers_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { address: listener.local_addr().unwrap(), model: Server::start(Fault::None).model };
    std::thread::spawn(move || null_server::serve(&listener, 1 << 20, None).unwrap());
    for rw in ["put", "get", "head", "delete"] {
        let report =
            server.clean(&format!("--rw {rw} --ops 200 --size 1MiB --objects 200 --prepare=no --iodepth 4"));
        assert_eq!(report["operations"][rw]["count"], 200);
    }
}

/// The same commands without HTTP.
#[test]
fn the_engine_runs_in_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[global]\nops=200\nobjects=200\nverify\niodepth=8\nnumjobs=2\npage-keys=70\n[put]\nrw=put\n[get]\nrw=get\n[head]\n\
        rw=head\n[list]\nrw=list\n[walk]\nrw=walk\n[mixed]\nrw=mixed\nsize=1-40KiB\n[delete]\nrw=delete\n[large]\nsize=3MiB\nobjects=10\n\
        rw=get\nops=20\nrange=100KiB\n";
    std::fs::write(file.path(), text).unwrap();
    let engine = format!("--engine={}", dir.path().join("engine").display());
    for round in 0..2 {
        let raw = ["bucketsbench", "--json", &engine, file.path().to_str().unwrap()].map(OsString::from);
        let mut out = Vec::new();
        let clean = Cli::try_parse_from(&raw).unwrap().run(&raw, |_| None, &mut out);
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap_or_default();
        assert!(clean.is_ok(), "round {round}: {clean:?}");
        for job in report["jobs"].as_array().unwrap() {
            assert_eq!(job["wrong_answers"], 0, "round {round}: {job:#}");
            // A busy machine may make the engine refuse; it must say so, and must not fail otherwise.
            let errors = job["errors"].as_object().unwrap();
            assert!(errors.keys().all(|name| name == "SlowDown"), "round {round}: {job:#}");
            let refused: u64 = errors.values().map(|count| count.as_u64().unwrap()).sum();
            let done = job["operations"].as_object().unwrap().values();
            let done: u64 = done.map(|operation| operation["count"].as_u64().unwrap()).sum();
            assert!(refused <= 20 && [20, 200].contains(&(done + refused)), "round {round}: {job:#}");
        }
        assert_eq!(report["jobs"].as_array().unwrap().len(), 8);
        assert!(report["jobs"][1]["operations"]["get"]["bytes"].as_u64() >= Some(180 * 4096));
    }
}

#[test]
fn secrets_are_not_shown() {
    let words = ["b", "--secret-key", "s1", "--secret-key=s2", "--json"].map(str::to_owned);
    let shown = without_secrets(words.into_iter());
    assert_eq!(shown, ["b", "--secret-key", "***", "--secret-key=***", "--json"]);
}
