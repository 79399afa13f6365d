//! Knative's conditions: one set of rules for PodAutoscaler, Metric, ServerlessService and Ingress.
//!
//! A [`ConditionSet`] names the *happy* condition (`Ready`) and the dependents it is aggregated
//! from; [`Conditions`] is the list an object carries in its status. Whoever reconciles an object
//! drives both and passes the time: nothing here reads a clock, formats times or talks to an API.
//!
//! Behaviour of `knative.dev/pkg/apis/condition_set.go` and, for
//! [`Conditions::keep_unchanged_times`], `knative.dev/pkg/reconciler/reconcile_common.go`.

use std::borrow::Cow;
use std::fmt;

use crate::UnixTime;

/// The happy condition of every living (not batch) Knative resource.
pub const READY: &str = "Ready";

/// The status of one condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// How much a condition matters that is not True.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Severity {
    /// Takes part in the happy condition. Written as the empty string.
    #[default]
    Error,
    Warning,
    Info,
}

/// One condition of an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type` on the wire.
    pub type_: Cow<'static, str>,
    pub status: ConditionStatus,
    pub severity: Severity,
    /// One word in camel case, or empty.
    pub reason: Cow<'static, str>,
    /// For people; may be empty.
    pub message: Cow<'static, str>,
    /// When status, reason, message or severity last changed.
    pub last_transition_time: UnixTime,
}

/// The conditions of one object, sorted by type once anything was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions(Vec<Condition>);

/// Which conditions make up the happy one.
#[derive(Clone, Copy, Debug)]
pub struct ConditionSet {
    happy: &'static str,
    dependents: &'static [&'static str],
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// Reads the word on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "True" => Some(Self::True),
            "False" => Some(Self::False),
            "Unknown" => Some(Self::Unknown),
            _ => None,
        }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Severity ===

impl Severity {
    /// The word on the wire; empty for [`Severity::Error`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "",
            Self::Warning => "Warning",
            Self::Info => "Info",
        }
    }

    /// Reads the word on the wire; everything unknown is an error, the default.
    pub fn parse(text: &str) -> Self {
        match text {
            "Warning" => Self::Warning,
            "Info" => Self::Info,
            _ => Self::Error,
        }
    }
}

// === impl Condition ===

impl Condition {
    /// A condition without reason and message; [`Conditions::set`] fills in the time.
    pub fn new(
        type_: impl Into<Cow<'static, str>>,
        status: ConditionStatus,
        severity: Severity,
    ) -> Self {
        Self {
            type_: type_.into(),
            status,
            severity,
            reason: Cow::Borrowed(""),
            message: Cow::Borrowed(""),
            last_transition_time: UnixTime::default(),
        }
    }

    /// Adds the explanation.
    #[must_use]
    pub fn because(
        mut self,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.reason = reason.into();
        self.message = message.into();
        self
    }

    /// Whether both say the same, whenever it began.
    pub fn same_apart_from_time(&self, other: &Self) -> bool {
        self.type_ == other.type_
            && self.status == other.status
            && self.severity == other.severity
            && self.reason == other.reason
            && self.message == other.message
    }
}

// === impl Conditions ===

impl Conditions {
    /// No conditions, as in a fresh object.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The condition of this type, if the object has it.
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.type_ == type_)
    }

    /// In stored order.
    pub fn iter(&self) -> std::slice::Iter<'_, Condition> {
        self.0.iter()
    }

    /// Whether the condition is there and True.
    pub fn is_true(&self, type_: &str) -> bool {
        self.status(type_) == Some(ConditionStatus::True)
    }

    /// Whether the condition is there and False.
    pub fn is_false(&self, type_: &str) -> bool {
        self.status(type_) == Some(ConditionStatus::False)
    }

    /// Whether the condition is Unknown or missing.
    pub fn is_unknown(&self, type_: &str) -> bool {
        matches!(self.status(type_), None | Some(ConditionStatus::Unknown))
    }

    /// The message of this condition, empty when it is missing.
    pub fn message(&self, type_: &str) -> Cow<'static, str> {
        self.get(type_)
            .map_or(Cow::Borrowed(""), |condition| condition.message.clone())
    }

    /// Since when the condition has this status; `None` when it has another one or is missing.
    pub fn since(&self, type_: &str, status: ConditionStatus) -> Option<UnixTime> {
        self.get(type_)
            .filter(|condition| condition.status == status)
            .map(|condition| condition.last_transition_time)
    }

    /// Sets one condition. If it says the same as before nothing changes; else its transition time
    /// becomes `now`, also when only reason or message differ.
    pub fn set(&mut self, mut condition: Condition, now: UnixTime) {
        let existing = self.0.iter().position(|c| c.type_ == condition.type_);
        if let Some(index) = existing {
            if self.0[index].same_apart_from_time(&condition) {
                return;
            }
            self.0.remove(index);
        }
        condition.last_transition_time = now;
        self.0.push(condition);
        self.0.sort_by(|a, b| a.type_.cmp(&b.type_));
    }

    /// After a reconcile: conditions that say the same as in `old` get their old transition time
    /// back, all others the same new one.
    pub fn keep_unchanged_times(&mut self, old: &Self, now: UnixTime) {
        for condition in &mut self.0 {
            condition.last_transition_time = match old.get(&condition.type_) {
                Some(before) if before.same_apart_from_time(condition) => {
                    before.last_transition_time
                }
                _ => now,
            };
        }
    }

    /// Whether both lists say the same, whenever it began: no reason to write a status.
    pub fn same_apart_from_times(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(left, right)| left.same_apart_from_time(right))
    }

    fn status(&self, type_: &str) -> Option<ConditionStatus> {
        self.get(type_).map(|condition| condition.status)
    }
}

impl FromIterator<Condition> for Conditions {
    /// Keeps the order, as objects read from an API server are kept.
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Self {
        Self(conditions.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Conditions {
    type Item = &'a Condition;
    type IntoIter = std::slice::Iter<'a, Condition>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

// === impl ConditionSet ===

impl ConditionSet {
    /// The set of a resource that lives on, whose happy condition is [`READY`]. `dependents` are
    /// the conditions it is aggregated from, without `READY` itself.
    pub const fn living(dependents: &'static [&'static str]) -> Self {
        Self {
            happy: READY,
            dependents,
        }
    }

    /// The type of the happy condition.
    pub const fn happy(&self) -> &'static str {
        self.happy
    }

    /// Adds what is missing: Unknown, or True where the happy condition is True already, because
    /// then all dependents must have been.
    pub fn initialize(&self, conditions: &mut Conditions, now: UnixTime) {
        if conditions.get(self.happy).is_none() {
            let happy = Condition::new(self.happy, ConditionStatus::Unknown, Severity::Error);
            conditions.set(happy, now);
        }
        let status = if conditions.is_true(self.happy) {
            ConditionStatus::True
        } else {
            ConditionStatus::Unknown
        };
        for &dependent in self.dependents {
            if conditions.get(dependent).is_none() {
                conditions.set(Condition::new(dependent, status, Severity::Error), now);
            }
        }
    }

    /// Sets a condition True and recomputes the happy one.
    pub fn mark_true(&self, conditions: &mut Conditions, type_: &'static str, now: UnixTime) {
        let condition = Condition::new(type_, ConditionStatus::True, self.severity(type_));
        conditions.set(condition, now);
        self.recompute_happiness(conditions, type_, now);
    }

    /// Sets a condition Unknown; a dependent takes the happy condition with it unless another
    /// dependent is False.
    pub fn mark_unknown(
        &self,
        conditions: &mut Conditions,
        type_: &'static str,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        let (reason, message) = (reason.into(), message.into());
        let unknown = |type_: &'static str| {
            Condition::new(type_, ConditionStatus::Unknown, self.severity(type_))
                .because(reason.clone(), message.clone())
        };
        conditions.set(unknown(type_), now);
        if self.dependents.iter().any(|d| conditions.is_false(d)) {
            if !conditions.is_false(self.happy) {
                self.mark_false(conditions, self.happy, reason, message, now);
            }
            return;
        }
        if self.dependents.contains(&type_) {
            conditions.set(unknown(self.happy), now);
        }
    }

    /// Sets a condition False; a dependent takes the happy condition with it.
    pub fn mark_false(
        &self,
        conditions: &mut Conditions,
        type_: &'static str,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        now: UnixTime,
    ) {
        let (reason, message) = (reason.into(), message.into());
        let happy = self.dependents.contains(&type_).then_some(self.happy);
        for type_ in std::iter::once(type_).chain(happy) {
            let condition = Condition::new(type_, ConditionStatus::False, self.severity(type_))
                .because(reason.clone(), message.clone());
            conditions.set(condition, now);
        }
    }

    /// Happy when all dependents are True, else what the worst of them says.
    fn recompute_happiness(
        &self,
        conditions: &mut Conditions,
        marked: &'static str,
        now: UnixTime,
    ) {
        let happy = match self.unhappy_dependent(conditions) {
            Some(unhappy) => Condition::new(self.happy, unhappy.status, Severity::Error)
                .because(unhappy.reason, unhappy.message),
            None if marked != self.happy => {
                Condition::new(self.happy, ConditionStatus::True, Severity::Error)
            }
            None => return,
        };
        conditions.set(happy, now);
    }

    /// The newest False one, else the newest Unknown one, else an Unknown one that was never set.
    /// Any condition of error severity counts, not only the declared dependents.
    fn unhappy_dependent(&self, conditions: &Conditions) -> Option<Condition> {
        if self.dependents.is_empty() {
            return None;
        }
        let terminal = || {
            conditions
                .iter()
                .filter(|c| c.severity == Severity::Error && c.type_ != self.happy)
        };
        let newest = |status| {
            // The first of several equally new ones wins, so the comparison must not replace it.
            terminal()
                .filter(|c| c.status == status)
                .reduce(|best, c| {
                    if c.last_transition_time > best.last_transition_time {
                        c
                    } else {
                        best
                    }
                })
                .cloned()
        };
        newest(ConditionStatus::False)
            .or_else(|| newest(ConditionStatus::Unknown))
            .or_else(|| {
                (self.dependents.len() > terminal().count())
                    .then(|| Condition::new("", ConditionStatus::Unknown, Severity::Error))
            })
    }

    fn severity(&self, type_: &str) -> Severity {
        if type_ == self.happy || self.dependents.contains(&type_) {
            Severity::Error
        } else {
            Severity::Info
        }
    }
}

#[cfg(test)]
mod tests;
