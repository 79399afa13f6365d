//! A snapshot of metrics as an export request.
//!
//! Instruments stay where they are: whoever owns them takes a [`ScopeSnapshot`] when it is
//! asked, so that nothing is recorded twice.

use prost::Message;

use super::message::{
    ExportMetricsServiceRequest, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric,
};
use super::traces::{SCHEMA_URL, key_value, nanos, resource_message, scope_message};
use crate::clock::UnixTime;
use crate::histogram;
use crate::trace::{Attribute, Scope};

/// Values count from the start of the process.
const CUMULATIVE: i32 = 2;

/// How an instrument is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// OpenTelemetry's name, with full stops.
    pub name: &'static str,
    /// What it measures.
    pub description: &'static str,
    /// In UCUM.
    pub unit: &'static str,
}

/// The series of one instrument.
#[derive(Clone, Debug)]
pub enum Series {
    /// Distributions.
    Histogram(Vec<Point<histogram::Histogram>>),
    /// Present values.
    Gauge(Vec<Point<i64>>),
    /// Present values that are no whole numbers.
    FloatGauge(Vec<Point<f64>>),
    /// What was added up since the start, and perhaps taken away.
    Sum {
        /// The sums.
        points: Vec<Point<i64>>,
        /// Whether nothing is ever taken away.
        is_monotonic: bool,
    },
}

/// One series.
#[derive(Clone, Debug)]
pub struct Point<V> {
    /// What tells it from the others.
    pub attributes: Vec<Attribute>,
    /// Its value; a histogram is read when it is encoded.
    pub value: V,
}

/// One instrument and its series.
#[derive(Clone, Debug)]
pub struct MetricSnapshot {
    /// Which.
    pub instrument: Instrument,
    /// Its series; without any it is not sent.
    pub series: Series,
}

/// The instruments of one library.
#[derive(Clone, Debug)]
pub struct ScopeSnapshot {
    /// Which.
    pub scope: Scope,
    /// Its instruments.
    pub metrics: Vec<MetricSnapshot>,
}

// === impl MetricSnapshot ===

impl MetricSnapshot {
    /// The series of an instrument.
    pub fn new(
        name: &'static str,
        description: &'static str,
        unit: &'static str,
        series: Series,
    ) -> Self {
        let instrument = Instrument {
            name,
            description,
            unit,
        };
        Self { instrument, series }
    }
}

/// Encodes a snapshot, or nothing if it has no series.
pub(super) fn encode(
    scopes: Vec<ScopeSnapshot>,
    resource: &[Attribute],
    start: UnixTime,
    now: UnixTime,
) -> Option<Vec<u8>> {
    let scope_metrics: Vec<ScopeMetrics> = scopes
        .into_iter()
        .map(|scope| ScopeMetrics {
            scope: Some(scope_message(scope.scope)),
            metrics: scope
                .metrics
                .into_iter()
                .filter(|metric| !metric.series.is_empty())
                .map(|metric| convert(metric, start, now))
                .collect(),
        })
        .filter(|scope| !scope.metrics.is_empty())
        .collect();
    if scope_metrics.is_empty() {
        return None;
    }
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource_message(resource)),
            scope_metrics,
            schema_url: SCHEMA_URL.to_owned(),
        }],
    };
    Some(request.encode_to_vec())
}

fn convert(metric: MetricSnapshot, start: UnixTime, now: UnixTime) -> Metric {
    let data = match metric.series {
        Series::Histogram(points) => metric::Data::Histogram(Histogram {
            data_points: points
                .into_iter()
                .map(|point| distribution(point, start, now))
                .collect(),
            aggregation_temporality: CUMULATIVE,
        }),
        Series::Gauge(points) => metric::Data::Gauge(Gauge {
            data_points: numbers(points, start, now),
        }),
        Series::FloatGauge(points) => metric::Data::Gauge(Gauge {
            data_points: points
                .into_iter()
                .map(|point| NumberDataPoint {
                    as_double: Some(point.value),
                    ..number(point.attributes, start, now)
                })
                .collect(),
        }),
        Series::Sum {
            points,
            is_monotonic,
        } => metric::Data::Sum(Sum {
            data_points: numbers(points, start, now),
            aggregation_temporality: CUMULATIVE,
            is_monotonic,
        }),
    };
    Metric {
        name: metric.instrument.name.to_owned(),
        description: metric.instrument.description.to_owned(),
        unit: metric.instrument.unit.to_owned(),
        data: Some(data),
    }
}

fn numbers(points: Vec<Point<i64>>, start: UnixTime, now: UnixTime) -> Vec<NumberDataPoint> {
    points
        .into_iter()
        .map(|point| NumberDataPoint {
            as_int: Some(point.value),
            ..number(point.attributes, start, now)
        })
        .collect()
}

/// Without its value.
fn number(attributes: Vec<Attribute>, start: UnixTime, now: UnixTime) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes.into_iter().map(key_value).collect(),
        start_time_unix_nano: nanos(start),
        time_unix_nano: nanos(now),
        ..NumberDataPoint::default()
    }
}

fn distribution(
    point: Point<histogram::Histogram>,
    start: UnixTime,
    now: UnixTime,
) -> HistogramDataPoint {
    let buckets = point.value.buckets();
    let bucket_counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
    HistogramDataPoint {
        attributes: point.attributes.into_iter().map(key_value).collect(),
        start_time_unix_nano: nanos(start),
        time_unix_nano: nanos(now),
        count: bucket_counts.iter().sum(),
        sum: Some(point.value.sum()),
        explicit_bounds: buckets
            .iter()
            .map(|(bound, _)| *bound)
            .filter(|bound| bound.is_finite())
            .collect(),
        bucket_counts,
    }
}

// === impl Series ===

impl Series {
    fn is_empty(&self) -> bool {
        match self {
            Self::Histogram(points) => points.is_empty(),
            Self::Gauge(points) | Self::Sum { points, .. } => points.is_empty(),
            Self::FloatGauge(points) => points.is_empty(),
        }
    }
}
