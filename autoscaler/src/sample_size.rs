//! How many pods are scraped for how many there are, and what their reports stand for.
//!
//! Behaviour of `pkg/autoscaler/metrics/{sample_size,collector}.go`.

/// Up to this many pods all are scraped.
const SCRAPE_ALL: u32 = 3;
/// Squared z-score of 95 % confidence, times the variance, over the squared margin of error.
const INFINITE_POPULATION_SAMPLE: f64 = 1.96 * 1.96 * 100.0 / 25.0;

/// The four values of a stat that add up over pods.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Sample {
    pub average_concurrent_requests: f64,
    pub average_proxied_concurrent_requests: f64,
    pub request_count: f64,
    pub proxied_request_count: f64,
}

/// Pods to scrape out of `population`; grows to 16.
pub fn sample_size(population: u32) -> u32 {
    if population <= SCRAPE_ALL {
        return population;
    }
    let population = f64::from(population);
    let unbounded = INFINITE_POPULATION_SAMPLE;
    (population * unbounded / (population + unbounded - 1.0)).ceil() as u32
}

// === impl Sample ===

impl Sample {
    /// Adds another pod's report.
    pub fn add(&mut self, other: &Self) {
        self.average_concurrent_requests += other.average_concurrent_requests;
        self.average_proxied_concurrent_requests += other.average_proxied_concurrent_requests;
        self.request_count += other.request_count;
        self.proxied_request_count += other.proxied_request_count;
    }

    /// Turns the sum over `sampled` pods into what `population` pods would report, each sampled
    /// one standing for its siblings. `sampled` is at least 1.
    #[must_use]
    pub fn extrapolated(&self, sampled: u32, population: u32) -> Self {
        let (sampled, population) = (f64::from(sampled), f64::from(population));
        let scale = |value: f64| value / sampled * population;
        Self {
            average_concurrent_requests: scale(self.average_concurrent_requests),
            average_proxied_concurrent_requests: scale(self.average_proxied_concurrent_requests),
            request_count: scale(self.request_count),
            proxied_request_count: scale(self.proxied_request_count),
        }
    }

    /// Concurrency without what activators report themselves.
    pub fn net_concurrency(&self) -> f64 {
        self.average_concurrent_requests - self.average_proxied_concurrent_requests
    }

    /// Requests without what activators report themselves.
    pub fn net_request_count(&self) -> f64 {
        self.request_count - self.proxied_request_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_reference() {
        let table = [
            (0, 0),
            (1, 1),
            (3, 3),
            (4, 4),
            (5, 4),
            (6, 5),
            (9, 6),
            (12, 7),
            (15, 8),
            (20, 9),
            (25, 10),
            (30, 11),
            (40, 12),
            (50, 12),
            (100, 14),
            (200, 15),
            (500, 15),
            (1_000, 16),
            (10_000, 16),
        ];
        for (population, expected) in table {
            assert_eq!(sample_size(population), expected, "{population}");
        }
    }

    #[test]
    fn never_more_than_there_are_nor_more_than_sixteen() {
        for population in 0..20_000 {
            assert!(sample_size(population) <= population.min(16));
        }
    }
}
