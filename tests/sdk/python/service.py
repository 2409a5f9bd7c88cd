"""The real Azure service SDK against a Twinward hub: registry, twins, queries, bulk.

Needs TWINWARD_SERVICE_CONNECTION_STRING, and REQUESTS_CA_BUNDLE for the hub's authority. Prints the
name of each step that held; ends with a traceback at the first that did not.
"""

import datetime
import os
import time

from azure.core.exceptions import ResourceNotFoundError
from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager
from azure.iot.hub.models import (
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    ConfigurationQueriesTestInput,
    ExportImportDevice,
    JobRequest,
    QuerySpecification,
    Twin,
    TwinProperties,
)
from msrest.exceptions import HttpOperationError

HUB = os.environ["TWINWARD_SERVICE_CONNECTION_STRING"]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def refused(status, code, call, *arguments):
    """The call is refused with this status, and names this code where the SDKs look for it."""
    try:
        call(*arguments)
    except HttpOperationError as error:
        response = error.response
        assert response.status_code == status, response.text
        assert response.headers["iothub-errorcode"] == code, dict(response.headers)
        assert response.json()["Message"].startswith(f"ErrorCode:{code};"), response.text
        return
    except ResourceNotFoundError as error:
        assert status == 404, error
        return
    raise AssertionError(f"{call.__name__} was not refused")


def devices(hub):
    device = hub.create_device_with_sas("sdk+1", "", "", "enabled")
    assert device.device_id == "sdk+1" and device.status == "enabled"
    assert device.connection_state == "Disconnected"
    keys = device.authentication.symmetric_key
    assert len(keys.primary_key) == 44 and keys.primary_key != keys.secondary_key
    refused(409, "DeviceAlreadyExists", hub.create_device_with_sas, "sdk+1", "", "", "enabled")
    given = hub.create_device_with_sas("given", KEY, KEY, "disabled", iot_edge=False)
    assert given.authentication.symmetric_key.primary_key == KEY and given.status == "disabled"
    thumbprint = "A" * 40
    x509 = hub.create_device_with_x509("x509", thumbprint, thumbprint, "enabled")
    assert x509.authentication.type == "selfSigned", x509.authentication
    assert x509.authentication.x509_thumbprint.primary_thumbprint == thumbprint
    ca = hub.create_device_with_certificate_authority("ca", "enabled")
    assert ca.authentication.type == "certificateAuthority"
    updated = hub.update_device_with_sas("given", given.etag, KEY, KEY, "enabled")
    assert updated.status == "enabled" and updated.etag != given.etag
    refused(
        412,
        "PreconditionFailed",
        hub.update_device_with_sas, "given", given.etag, KEY, KEY, "disabled",
    )
    assert hub.get_device("given").etag == updated.etag
    listed = {device.device_id for device in hub.get_devices()}
    assert {"sdk+1", "given", "x509", "ca"} <= listed
    assert len(hub.get_devices(2)) == 2
    refused(404, "DeviceNotFound", hub.get_device, "nobody")
    refused(400, "ArgumentInvalid", hub.create_device_with_sas, "no blank", "", "", "enabled")
    statistics = hub.get_device_registry_statistics()
    assert statistics.total_device_count == statistics.enabled_device_count >= 4
    assert hub.get_service_statistics().connected_device_count == 0


def modules(hub):
    module = hub.create_module_with_sas("given", "camera", "", "", "")
    assert module.module_id == "camera" and module.device_id == "given"
    refused(
        409,
        "ModuleAlreadyExistsOnDevice",
        hub.create_module_with_sas, "given", "camera", "", "", "",
    )
    assert "camera" in {module.module_id for module in hub.get_modules("given")}
    updated = hub.update_module_with_sas("given", "camera", "me", module.etag, KEY, KEY)
    assert updated.managed_by == "me"
    assert hub.get_module("given", "camera").authentication.symmetric_key.primary_key == KEY
    twin = hub.get_module_twin("given", "camera")
    assert twin.module_id == "camera" and twin.properties.desired["$version"] == 1
    twin = hub.update_module_twin(
        "given", "camera", Twin(properties=TwinProperties(desired={"fps": 5}))
    )
    assert twin.properties.desired["fps"] == 5
    hub.delete_module("given", "camera")
    refused(404, "ModuleNotFound", hub.get_module, "given", "camera")


def twins(hub):
    twin = hub.get_twin("given")
    assert twin.properties.desired["$version"] == 1, twin.properties.desired
    assert twin.tags is None and twin.status == "enabled"
    patch = Twin(tags={"site": {"floor": 2}}, properties=TwinProperties(desired={"a": 1, "b": 2}))
    patched = hub.update_twin("given", patch, twin.etag)
    assert patched.tags == {"site": {"floor": 2}}
    assert patched.properties.desired["$version"] == 2
    metadata = patched.properties.desired["$metadata"]["a"]
    assert metadata["$lastUpdatedVersion"] == 2 and metadata["$lastUpdated"]
    refused(412, "PreconditionFailed", hub.update_twin, "given", patch, twin.etag)
    # What was read is sent back: read-only members must be ignored.
    patched.properties.desired = {"a": None, "c": 100}
    again = hub.update_twin("given", patched)
    assert {k: v for k, v in again.properties.desired.items() if k[0] != "$"} == {"b": 2, "c": 100}
    replaced = hub.replace_twin("given", Twin(properties=TwinProperties(desired={"only": True})))
    desired = {k: v for k, v in replaced.properties.desired.items() if k[0] != "$"}
    assert desired == {"only": True} and replaced.properties.desired["$version"] == 4
    too_deep = 1
    for _ in range(12):
        too_deep = {"a": too_deep}
    bad = Twin(properties=TwinProperties(desired=too_deep))
    refused(400, "ArgumentInvalid", hub.update_twin, "given", bad)
    large = Twin(tags={f"k{n}": "x" * 4000 for n in range(3)})
    refused(403, "TwinSectionTooLarge", hub.update_twin, "given", large)
    refused(404, "DeviceNotFound", hub.get_twin, "nobody")


def queries(hub):
    for number in range(5):
        hub.create_device_with_sas(f"query-{number}", "", "", "enabled")
        hub.update_twin(f"query-{number}", Twin(tags={"group": "q", "number": number}))
    condition = "FROM devices WHERE tags.group = 'q'"
    spec = QuerySpecification(query=f"SELECT * {condition}")
    found, token, pages = set(), None, 0
    while True:
        page = hub.query_iot_hub(spec, token, 2)
        found |= {twin.device_id for twin in page.items}
        pages += 1
        token = page.continuation_token
        if not token:
            break
    assert found == {f"query-{number}" for number in range(5)} and pages == 3, (found, pages)
    spec = QuerySpecification(query=f"SELECT COUNT() AS n {condition}")
    answer = hub.query_iot_hub(spec)
    assert answer.items[0].additional_properties == {"n": 5}, answer.items[0]
    bad = QuerySpecification(query="SELECT * FROM devices WHERE tags.group = ")
    refused(400, "ArgumentInvalid", hub.query_iot_hub, bad)


def bulk(hub):
    items = [
        ExportImportDevice(id=f"bulk-{number}", import_mode="create", status="enabled")
        for number in range(100)
    ]
    result = hub.bulk_create_or_update_devices(items)
    assert result.is_successful, result.errors
    again = hub.bulk_create_or_update_devices(items[:2])
    assert not again.is_successful and len(again.errors) == 2
    assert again.errors[0].device_id == "bulk-0", again.errors[0]
    gone = [ExportImportDevice(id=f"bulk-{number}", import_mode="delete") for number in range(100)]
    assert hub.bulk_create_or_update_devices(gone).is_successful
    refused(404, "DeviceNotFound", hub.get_device, "bulk-50")


def configurations(registry):
    hub = IoTHubConfigurationManager.from_connection_string(HUB)
    wanted = Configuration(
        id="sdk-config",
        schema_version="1.0",
        labels={"app": "test"},
        content=ConfigurationContent(device_content={"properties.desired.chiller": {"t": 20}}),
        target_condition="tags.group = 'q'",
        priority=10,
        metrics=ConfigurationMetrics(
            queries={"third": "SELECT deviceId FROM devices WHERE tags.number >= 3"}
        ),
    )
    made = hub.create_configuration(wanted)
    assert made.etag == "MQ==" and made.created_time_utc.year > 2000, made
    assert made.content.device_content == {"properties.desired.chiller": {"t": 20}}
    refused(409, "ConfigurationAlreadyExists", hub.create_configuration, wanted)
    read = hub.get_configuration("sdk-config")
    assert read.labels == {"app": "test"} and read.priority == 10
    # It is carried out within seconds, and both are counted.
    everywhere = {"targetedCount": 5, "appliedCount": 5}
    until = time.monotonic() + 30
    while hub.get_configuration("sdk-config").system_metrics.results != everywhere:
        assert time.monotonic() < until, hub.get_configuration("sdk-config")
        time.sleep(0.05)
    twin = registry.get_twin("query-0")
    assert twin.properties.desired["chiller"] == {"t": 20}, twin.properties.desired
    metadata = twin.properties.desired["$metadata"]["chiller"]["t"]
    assert metadata["$lastUpdatedBy"] == "sdk-config", metadata
    applied = QuerySpecification(
        query="SELECT deviceId FROM devices WHERE configurations.[[sdk-config]].status = 'Applied'"
    )
    assert len(registry.query_iot_hub(applied).items) == 5
    assert "tags.group = 'q'" in read.system_metrics.queries["targetedCount"]
    assert read.metrics.results == {"third": 2}
    read.priority = 20
    updated = hub.update_configuration(read, read.etag)
    assert updated.priority == 20 and updated.etag == "Mg=="
    refused(412, "PreconditionFailed", hub.update_configuration, read, made.etag)
    read.content.device_content = {"properties.desired.chiller": {"t": 21}}
    refused(
        400,
        "CannotModifyImmutableConfigurationContent",
        hub.update_configuration, read, "*",
    )
    bad = Configuration(id="bad", target_condition="tags.x =", priority=1)
    refused(400, "InvalidConfigurationTargetCondition", hub.create_configuration, bad)
    bad = Configuration(id="Bad", priority=1)
    refused(400, "ArgumentInvalid", hub.create_configuration, bad)
    modules = Configuration(
        id="modules",
        content=ConfigurationContent(module_content={"properties.desired.x": 1}),
        target_condition="from devices.modules where moduleId = 'camera'",
    )
    assert hub.create_configuration(modules).priority == 0
    listed = {one.id: one for one in hub.get_configurations()}
    assert set(listed) == {"sdk-config", "modules"}, listed
    assert listed["modules"].system_metrics.results["targetedCount"] == 0
    assert len(hub.get_configurations(1)) == 1
    tested = hub.test_configuration_queries(
        ConfigurationQueriesTestInput(
            target_condition="tags.x =",
            custom_metric_queries={"good": "SELECT * FROM devices", "bad": "SELECT"},
        )
    )
    assert "column" in tested.target_condition_error, tested
    assert list(tested.custom_metric_query_errors) == ["bad"], tested
    refused(
        400,
        "InvalidConfigurationContent",
        hub.apply_configuration_on_edge_device, "given", ConfigurationContent(),
    )
    refused(412, "PreconditionFailed", hub.delete_configuration, "sdk-config", made.etag)
    hub.delete_configuration("sdk-config", updated.etag)
    hub.delete_configuration("modules")
    refused(404, "ConfigurationNotFound", hub.get_configuration, "sdk-config")
    assert hub.get_configurations() == []


def jobs(registry):
    hub = IoTHubJobManager.from_connection_string(HUB)

    def request(condition, tags, **more):
        twin = Twin(etag="*", tags=tags, properties=TwinProperties(desired={"fps": 9}))
        return JobRequest(
            type="scheduleUpdateTwin", update_twin=twin, query_condition=condition, **more
        )

    def ended(job):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = hub.get_scheduled_job(job)
            if found.status in ("completed", "failed", "cancelled"):
                return found
            time.sleep(0.05)
        raise AssertionError(f"the job {job} does not end: {found}")

    wanted = request("tags.group = 'q'", {"done": True}, max_execution_time_in_seconds=60)
    begun = hub.create_scheduled_job("job-1", wanted)
    assert begun.job_id == "job-1" and begun.type == "scheduleUpdateTwin", begun
    assert begun.status in ("queued", "running", "completed"), begun
    refused(409, "JobAlreadyExists", hub.create_scheduled_job, "job-1", wanted)
    done = ended("job-1")
    assert done.status == "completed" and done.end_time >= done.created_time, done
    counts = done.device_job_statistics
    assert (counts.device_count, counts.succeeded_count, counts.failed_count) == (5, 5, 0), counts
    assert registry.get_twin("query-3").tags["done"] is True
    assert registry.get_twin("query-3").properties.desired["fps"] == 9
    # A time ahead: the job waits for it, and begins.
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    waits = hub.create_scheduled_job("job-2", request("*", {"late": 1}, start_time=soon))
    assert waits.status == "scheduled", waits
    later = soon + datetime.timedelta(days=3)
    hub.create_scheduled_job("job-3", request("*", {"never": 1}, start_time=later))
    assert hub.cancel_scheduled_job("job-3").status == "cancelled"
    assert "never" not in registry.get_twin("query-0").tags
    done = ended("job-2")
    assert done.status == "completed" and done.end_time >= soon, done
    assert registry.get_twin("query-0").tags["late"] == 1
    rows, token, pages = [], None, 0
    spec = QuerySpecification(
        query="SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'job-1'"
        " AND devices.jobs.status = 'completed'"
    )
    while True:
        page = registry.query_iot_hub(spec, token, 2)
        rows += [row.device_id for row in page.items]
        pages += 1
        token = page.continuation_token
        if not token:
            break
    assert rows == [f"query-{number}" for number in range(5)] and pages == 3, (rows, pages)
    refused(404, "JobNotFound", hub.get_scheduled_job, "nothing")
    refused(404, "JobNotFound", hub.cancel_scheduled_job, "nothing")
    refused(
        400, "ArgumentInvalid", hub.create_scheduled_job, "bad", request("tags.x = ", {"a": 1})
    )
    refused(
        400,
        "ArgumentInvalid",
        hub.create_scheduled_job, "bad", JobRequest(type="scheduleDeviceMethod"),
    )


def rights(hub):
    wrong = HUB.replace("SharedAccessKey=", "SharedAccessKey=AAAA")
    refused(
        401, "IotHubUnauthorizedAccess", IoTHubRegistryManager(wrong).get_device, "given"
    )


def main():
    hub = IoTHubRegistryManager.from_connection_string(HUB)
    for step in (devices, modules, twins, queries, bulk, configurations, jobs, rights):
        step(hub)
        print("ok", step.__name__, flush=True)
    for device in hub.get_devices():
        hub.delete_device(device.device_id)
    assert hub.get_devices() == []
    print("ok all", flush=True)


main()
