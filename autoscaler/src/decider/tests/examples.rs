//! Scenarios with every tick worked out: `time ready stable panic panic-since peak desired EBC`.
//! A dash is no data, and no decision.

use super::example::*;

#[test]
fn cold_start() {
    Example::new()
        .created_with(0)
        .load(4..10, 30.0)
        .load(10..41, 0.0)
        .check(
            "
         2 0 - - off 0 - -
         4 1 30 30 off 0 1 -141
         6 1 30 30 off 0 1 -141
         8 1 30 30 off 0 1 -141
         10 1 25.7143 25 off 0 1 -136
         12 1 20 15 off 0 1 -126
         20 1 10.5882 0 off 0 1 -111
         40 1 4.8649 0 off 0 1 -111
        ",
        );
}

#[test]
fn slow_growth_without_panic() {
    Example::new()
        .container_concurrency(10)
        .load(0..60, 18.0)
        .load(60..121, 25.0)
        .check(
            "
         58 3 18 18 off 1 3 -199
         60 3 18.1167 19.1667 off 1 3 -201
         62 3 18.35 21.5 off 1 3 -203
         66 3 18.8167 25 off 1 3 -206
         72 3 19.5167 25 off 1 3 -206
         84 3 20.9167 25 off 1 3 -206
         86 3 21.15 25 off 1 4 -206
         88 4 21.3833 25 off 1 4 -196
         120 4 25 25 off 1 4 -196
        ",
        );
}

#[test]
fn burst_enters_extends_and_leaves_panic() {
    Example::new()
        .container_concurrency(10)
        .annotate(TBC, "20")
        .load(0..60, 12.0)
        .load(60..70, 60.0)
        .load(70..133, 12.0)
        .check(
            "
         58 2 12 12 off 1 2 -12
         60 2 12.8 20 off 1 2 -20
         62 2 14.4 36 62 6 6 -36
         64 2 16 52 64 8 8 -52
         66 4 17.6 60 66 9 9 -40
         68 6 19.2 60 66 9 9 -20
         70 9 20 52 66 9 9 18
         72 9 20 36 66 9 9 34
         76 9 20 12 66 9 9 58
         100 9 20 12 66 9 9 58
         124 9 16 12 66 9 9 58
         126 9 14.4 12 66 9 9 58
         128 9 12.8 12 off 0 4 58
         130 4 12 12 off 0 2 8
         132 2 12 12 off 0 2 -12
        ",
        );
}

#[test]
fn restart_with_several_ready_pods() {
    Example::new().created_with(4).load(1..81, 100.0).check(
        "
         0 4 - - 0 4 - -
         2 4 100 100 0 4 4 89
         4 4 100 100 0 4 4 89
         30 3 100 100 0 4 4 -11
         58 4 100 100 0 4 4 89
         60 4 100 100 0 4 4 89
         62 4 100 100 off 0 2 89
         64 2 100 100 off 0 2 -111
        ",
    );
}

#[test]
fn scale_up_rate_allows_one_more_pod() {
    Example::new()
        .configure("max-scale-up-rate", "1.1")
        .exact_target("1")
        .annotate(TBC, "-1")
        .load(0..7, 3.1)
        .check(
            "
         2 2 3.1 3.1 2 3 3 -1
         4 3 3.1 3.1 2 4 4 -1
         6 4 3.1 3.1 2 4 4 -1
        ",
        );
}

#[test]
fn scale_up_rate_counts_ready_pods() {
    Example::new()
        .created_with(0)
        .configure("max-scale-up-rate", "2")
        .exact_target("1")
        .annotate(TBC, "-1")
        .load(0..15, 40.0)
        .check(
            "
         2 0 40 40 2 2 2 -1
         4 2 40 40 4 4 4 -1
         6 4 40 40 6 8 8 -1
         8 8 40 40 8 16 16 -1
         10 16 40 40 10 32 32 -1
         12 32 40 40 10 40 40 -1
         14 40 40 40 10 40 40 -1
        ",
        );
}

#[test]
fn scale_down_halves_per_tick() {
    Example::new()
        .exact_target("10")
        .annotate(TBC, "0")
        .load(0..21, 5.0)
        .load(21..87, 0.0)
        .check(
            "
         2 9 5 5 off 1 4 0
         4 4 5 5 off 1 2 0
         6 2 5 5 off 1 1 0
         8 1 5 5 off 1 1 0
         80 9 0 0 off 1 4 0
         82 4 0 0 off 1 2 0
         84 2 0 0 off 1 1 0
         86 1 0 0 off 1 0 0
        ",
        );
}

#[test]
fn unreachable_has_no_floor() {
    Example::new()
        .exact_target("10")
        .annotate(TBC, "0")
        .unreachable_from(0)
        .load(0..21, 5.0)
        .load(21..87, 0.0)
        .check(
            "
         2 9 5 5 off 1 1 0
         80 9 0 0 off 1 0 0
         82 0 0 0 off 1 0 0
        ",
        );
}

#[test]
fn scale_down_rate_rounds_down() {
    Example::new()
        .configure("max-scale-down-rate", "1.1")
        .exact_target("10")
        .annotate(TBC, "0")
        .load(0..11, 5.0)
        .check(
            "
         2 100 5 5 off 1 90 0
         4 90 5 5 off 1 81 0
         6 81 5 5 off 1 73 0
         8 2 5 5 off 1 1 0
         10 1 5 5 off 1 1 0
        ",
        );
}

#[test]
fn delay_holds_the_largest_wish() {
    Example::new()
        .annotate(DELAY, "10s")
        .annotate(WINDOW, "6s")
        .exact_target("10")
        .annotate(TBC, "0")
        .load(0..10, 40.0)
        .load(10..29, 0.0)
        .check(
            "
         6 4 40 40 off 1 4 0
         8 4 40 40 off 1 4 0
         10 4 33.3333 0 off 1 4 0
         12 4 20 0 off 1 4 0
         14 4 6.6667 0 off 1 4 0
         16 4 0 0 off 1 4 0
         18 4 0 0 off 1 4 0
         20 4 0 0 off 1 2 0
         22 4 0 0 off 1 2 0
         24 4 0 0 off 1 2 0
         26 4 0 0 off 1 2 0
         28 4 0 0 off 1 2 0
        ",
        );
}

#[test]
fn delay_is_ignored_once_unreachable() {
    Example::new()
        .annotate(DELAY, "10s")
        .annotate(WINDOW, "6s")
        .exact_target("10")
        .annotate(TBC, "0")
        .unreachable_from(17)
        .load(0..10, 40.0)
        .load(10..29, 0.0)
        .check(
            "
         8 4 40 40 off 1 4 0
         16 4 0 0 off 1 4 0
         18 4 0 0 off 1 0 0
        ",
        );
}

#[test]
fn activation_scale_is_a_minimum() {
    Example::new()
        .created_with(0)
        .annotate(ACTIVATION, "3")
        .load(0..1, 0.0)
        .value(100.2, 1.0)
        .value(101.2, 0.4)
        .load(102..107, 2.0)
        .check(
            "
         100 0 - - off 0 - -
         100.2 0 1 1 off 0 3 -212
         102 0 1.1333 1.1333 off 0 3 -213
         104 0 1.48 1.48 off 0 3 -213
         106 3 1.6286 1.7333 off 0 3 87
        ",
        );
}

#[test]
fn first_stat_of_many_requests_panics() {
    Example::new()
        .created_with(0)
        .container_concurrency(1)
        .annotate(TBC, "10")
        .value(100.2, 1.0)
        .value(101.2, 7.0)
        .load(102..107, 8.0)
        .check(
            "
         100.2 0 1 1 100.2 2 2 -11
         102 0 5.3333 5.3333 102 8 8 -16
         104 0 6.4 6.4 104 10 10 -17
         106 6 6.8571 7.8333 106 12 12 -12
        ",
        );
}

#[test]
fn excess_burst_capacity_grows_with_pods() {
    Example::new().load(0..11, 90.0).check(
        "
         2 1 90 90 2 2 2 -201
         4 2 90 90 2 2 2 -101
         6 3 90 90 2 2 2 -1
         8 4 90 90 2 2 2 99
         10 5 90 90 2 2 2 199
        ",
    );
}

#[test]
fn excess_burst_capacity_is_rounded_down() {
    Example::new().load(0..11, 89.4).check(
        "
         6 3 89.4 89.4 off 1 2 -1
         8 4 89.4 89.4 off 1 2 99
        ",
    );
}

#[test]
fn no_burst_capacity() {
    Example::new().annotate(TBC, "0").load(0..11, 90.0).check(
        "
         2 1 90 90 2 2 2 0
         4 4 90 90 2 2 2 0
        ",
    );
}

#[test]
fn unlimited_burst_capacity() {
    Example::new().annotate(TBC, "-1").load(0..11, 90.0).check(
        "
         2 1 90 90 2 2 2 -1
         4 4 90 90 2 2 2 -1
        ",
    );
}

#[test]
fn fractional_burst_capacity() {
    Example::new()
        .created_with(0)
        .annotate(INITIAL, "2")
        .annotate(TBC, "200.5")
        .load(0..11, 0.0)
        .check(
            "
         2 2 0 0 off 0 1 -1
        ",
        );
}

#[test]
fn requests_per_second_without_double_counting() {
    Example::new()
        .annotate(METRIC, "rps")
        .scraped_and_pushed(7)
        .check(
            "
         2 3 383.3333 383.3333 off 1 3 5
         4 4 430 430 off 1 4 159
         6 4 450 441.6667 off 1 4 147
        ",
        );
}

#[test]
fn weighted_average() {
    Example::new()
        .annotate(AGGREGATION, "weighted-exponential")
        .exact_target("10")
        .annotate(TBC, "0")
        .load(0..60, 50.0)
        .load(60..73, 0.0)
        .check(
            "
         0 5 10 39.2278 off 1 2 0
         2 5 24.4 49.5 off 1 3 0
         4 5 33.616 49.9768 off 1 4 0
         6 5 39.5142 49.995 off 1 4 0
         10 5 45.705 49.995 off 1 5 0
         20 5 49.5388 49.995 off 1 5 0
         58 5 49.9999 49.995 off 1 5 0
         60 5 39.9999 10.7672 off 1 4 0
         62 5 25.5999 0.495 off 1 3 0
         66 5 10.4857 0 off 1 2 0
         72 5 2.7487 0 off 1 2 0
        ",
        );
}

#[test]
fn linear_average() {
    Example::new()
        .exact_target("10")
        .annotate(TBC, "0")
        .load(0..60, 50.0)
        .load(60..73, 0.0)
        .check(
            "
         0 5 50 50 off 1 5 0
         2 5 50 50 off 1 5 0
         4 5 50 50 off 1 5 0
         6 5 50 50 off 1 5 0
         10 5 50 50 off 1 5 0
         20 5 50 50 off 1 5 0
         58 5 50 50 off 1 5 0
         60 5 49.1667 41.6667 off 1 5 0
         62 5 47.5 25 off 1 5 0
         66 5 44.1667 0 off 1 5 0
         72 5 39.1667 0 off 1 4 0
        ",
        );
}

#[test]
fn scrape_outage() {
    Example::new().load(0..60, 100.0).check(
        "
         58 2 100 100 off 1 2 -111
         60 2 100 100 off 1 2 -111
         90 2 100 0 off 1 2 -11
         118 2 100 0 off 1 2 -11
         119 2 0 0 off 1 1 -11
         120 2 - - off 1 - -
         122 2 - - off 1 - -
        ",
    );
}

#[test]
fn activators_only() {
    Example::new()
        .container_concurrency(10)
        .annotate(TBC, "-1")
        .load(0..60, 10.0)
        .load(60..61, 0.0)
        .check(
            "
         58 2 10 10 off 1 2 -1
         60 2 9.8333 8.3333 off 1 2 -1
         62 2 9.8276 7.5 off 1 2 -1
         64 2 9.8214 5 off 1 2 -1
         66 2 9.8148 0 off 1 2 -1
         80 2 9.75 0 off 1 2 -1
         90 2 9.6667 0 off 1 2 -1
         100 2 9.5 0 off 1 2 -1
         110 2 9 0 off 1 2 -1
         114 2 8.3333 0 off 1 2 -1
         116 2 7.5 0 off 1 2 -1
         118 2 5 0 off 1 1 -1
         119 1 0 0 off 1 0 -1
         120 1 0 0 off 1 0 -1
         122 1 0 0 off 1 0 -1
         400 0 0 0 off 1 0 -1
        ",
        );
}

#[test]
fn scraped_zeros_for_comparison() {
    Example::new()
        .container_concurrency(10)
        .load(0..60, 10.0)
        .load(60..121, 0.0)
        .check(
            "
         58 2 10 10 off 1 2 -201
         60 2 9.8333 8.3333 off 1 2 -200
         62 2 9.5 5 off 1 2 -196
         64 2 9.1667 1.6667 off 1 2 -193
         66 2 8.8333 0 off 1 2 -191
         80 2 6.5 0 off 1 1 -191
         90 2 4.8333 0 off 1 1 -191
         100 2 3.1667 0 off 1 1 -191
         110 2 1.5 0 off 1 1 -191
         114 2 0.8333 0 off 1 1 -191
         116 2 0.5 0 off 1 1 -191
         118 2 0.1667 0 off 1 1 -191
         119 1 0 0 off 1 0 -201
         120 1 0 0 off 1 0 -201
        ",
        );
}

#[test]
fn window_change_dilutes_a_young_series() {
    Example::new()
        .exact_target("1")
        .annotate(TBC, "0")
        .window_from(1.5, "30s")
        .load(0..7, 10.0)
        .check(
            "
         1 10 10 10 off 1 10 0
         2 10 1 10 off 1 5 0
         4 10 1.6667 10 off 1 5 0
         6 10 2.3333 10 off 1 5 0
        ",
        );
}
