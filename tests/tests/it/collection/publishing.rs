//! Two commands publish under one name in a bucket, a thousand times.

use mif_tests::bucket::Bucket;

use crate::remote::publish_races;

#[test]
#[ignore = "takes half an hour: make collection"]
fn two_publishers_of_one_name_both_get_a_version_a_thousand_times() {
    let Some(bucket) = Bucket::new() else { return };
    publish_races(&bucket, 1000);
}
