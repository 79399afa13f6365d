//! A report for people.

use std::fmt::Write;

use super::{Report, Revision, Service};

/// A title of each column of revisions.
const TITLES: [&str; 9] = [
    "REVISION",
    "TRAFFIC",
    "READY",
    "STARTING",
    "DRAINING",
    "DESIRED",
    "CONCURRENCY",
    "MODE",
    "ACTIVATOR",
];

/// The report as text that ends in a newline.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "pilotlight {} (process {}) on {}: {} requests, {} of them held",
        report.version,
        report.pid,
        report.listen.join(", "),
        report.requests,
        report.held
    );
    for service in &report.services {
        text.push('\n');
        render_service(&mut text, service);
    }
    text
}

fn render_service(text: &mut String, service: &Service) {
    let _ = writeln!(text, "{}  {}", service.name, service.url);
    for target in &service.traffic {
        if let (Some(tag), Some(url)) = (&target.tag, &target.url) {
            let _ = writeln!(text, "  tag {tag} -> {}  {url}", target.revision);
        }
    }
    let rows: Vec<[String; 9]> = std::iter::once(TITLES.map(str::to_owned))
        .chain(service.revisions.iter().map(row))
        .collect();
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "  {cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(reason) = index
            .checked_sub(1)
            .and_then(|index| service.revisions[index].reason.as_ref())
        {
            let _ = writeln!(text, "    {reason}");
        }
    }
}

fn row(revision: &Revision) -> [String; 9] {
    let replicas = revision.replicas;
    let starting = if replicas.waiting > 0 {
        format!("{} ({} exited)", replicas.starting, replicas.waiting)
    } else {
        replicas.starting.to_string()
    };
    [
        revision.name.clone(),
        format!("{}%", revision.traffic_percent),
        replicas.ready.to_string(),
        starting,
        replicas.draining.to_string(),
        revision.desired_scale.to_string(),
        format!("{:.2}", revision.concurrency),
        revision.mode.clone(),
        if revision.in_path { "in path" } else { "-" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::{Replicas, Traffic};
    use super::*;

    #[test]
    fn columns_line_up() {
        let report = Report {
            version: "1".into(),
            pid: 2,
            listen: vec!["127.0.0.1:8080".into()],
            requests: 3,
            held: 1,
            services: vec![Service {
                name: "hello".into(),
                url: "http://hello.localhost:8080".into(),
                traffic: vec![Traffic {
                    revision: "hello-00002".into(),
                    tag: Some("next".into()),
                    url: Some("http://next-hello.localhost:8080".into()),
                    ..Traffic::default()
                }],
                revisions: vec![
                    Revision {
                        name: "hello-00001".into(),
                        traffic_percent: 100,
                        replicas: Replicas {
                            ready: 2,
                            waiting: 1,
                            ..Replicas::default()
                        },
                        desired_scale: 3,
                        concurrency: 1.5,
                        mode: "panic".into(),
                        in_path: true,
                        ..Revision::default()
                    },
                    Revision {
                        name: "hello-00002".into(),
                        mode: "stable".into(),
                        reason: Some("the app ended".into()),
                        ..Revision::default()
                    },
                ],
                ..Service::default()
            }],
        };
        assert_eq!(
            render(&report),
            "pilotlight 1 (process 2) on 127.0.0.1:8080: 3 requests, 1 of them held\n\
             \n\
             hello  http://hello.localhost:8080\n\
             \x20 tag next -> hello-00002  http://next-hello.localhost:8080\n\
             \x20 REVISION     TRAFFIC  READY  STARTING      DRAINING  DESIRED  CONCURRENCY  MODE    ACTIVATOR\n\
             \x20 hello-00001  100%     2      0 (1 exited)  0         3        1.50         panic   in path\n\
             \x20 hello-00002  0%       0      0             0         0        0.00         stable  -\n\
             \x20   the app ended\n"
        );
    }
}
